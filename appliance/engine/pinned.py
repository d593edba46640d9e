"""This very process under the environment the host engine gives its stages."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from appliance.engine.host import stage_environment

PINNED = "APPLIANCE_PINNED"


def enter_pinned_environment(pinned: Mapping[str, str]) -> None:
    """Go on under ``pinned`` variables, as a stage would be started with.

    They must be there before any numerical library is imported, and Python's hash seed before
    Python itself: the process starts anew in place (same process id, same terminal), and returns
    from here the second time. Call it before anything worth keeping was done.
    """
    own_pid = str(os.getpid())
    if os.environ.get(PINNED) != own_pid:
        arguments = [sys.executable, "-m", "appliance", *sys.argv[1:]]
        sys.stdout.flush()
        sys.stderr.flush()
        wanted = {**stage_environment(pinned), PINNED: own_pid}
        os.execve(sys.executable, arguments, wanted)  # noqa: S606  (a shell is not wanted)
