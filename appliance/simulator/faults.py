"""What can go wrong with a simulator, told apart by whose fault it is.

Starting one fails with a plain SimulatorError (no rendering device, nothing installed). The classes
here are about one that was started.
"""

from __future__ import annotations

from appliance.errors import SimulatorError


class SimulatorLostError(SimulatorError):
    """The simulator's process died, or did not answer in time and was ended."""


class TaskRaisedError(SimulatorError):
    """RoboTwin's code raised in a call; the process answers, but its scene is not to be trusted."""


class UnplayableTrialError(SimulatorError):
    """This trial cannot be begun on this machine: its scene does not rest, or its expert raised.

    Only a pinned trial meets it; a search skips such seeds.
    """


class ActionError(SimulatorError, ValueError):
    """Actions of a wrong shape, or not finite."""
