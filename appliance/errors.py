"""One tree of errors; one exit code for each class (README, "Exit codes").

Every error a user can meet derives from :class:`ApplianceError`. Its text says where, what, and
what to do now. Leaf classes carry the exit code; the command line prints the text as one paragraph
and exits with the code. Nothing below the command line prints or exits.
"""

from __future__ import annotations

from typing import ClassVar


class ApplianceError(Exception):
    """Base of every error a user can meet; its text is shown as it is, without a traceback."""

    exit_code: ClassVar[int] = 1


class ManifestError(ApplianceError):
    """The manifest cannot be read, does not fit the schema, or contradicts itself."""

    exit_code = 10


class DatasetError(ApplianceError):
    """The dataset is missing, unreadable, of another format, or not the one that was pinned."""

    exit_code = 11


class PlanError(ApplianceError):
    """The sampling plan cannot be built, is damaged, or belongs to other data."""

    exit_code = 12


class NormStatsError(ApplianceError):
    """Normalization statistics are missing, damaged, or would be overwritten."""

    exit_code = 13


class CheckpointError(ApplianceError):
    """A checkpoint is missing, incomplete, of another shape, or not the one that was recorded."""

    exit_code = 14


class TrainingError(ApplianceError):
    """Training cannot start or cannot go on (unfit settings, a loss that is not finite)."""

    exit_code = 15


class SimulatorError(ApplianceError):
    """The simulator or its rendering device is missing, or the simulator process died."""

    exit_code = 16


class EvaluationError(ApplianceError):
    """The evaluation cannot start or cannot be finished."""

    exit_code = 17


class ExpectationError(ApplianceError):
    """The run finished, but a figure the manifest expects came out differently."""

    exit_code = 18


class PolicyServerError(ApplianceError):
    """A policy server cannot be reached, was lost, or does not speak the protocol."""

    exit_code = 19


class PolicyRaisedError(PolicyServerError):
    """A policy answered a query with an error of its own; it ends that episode and no other."""


class NotABundleError(ApplianceError):
    """The path given is not an audit bundle."""

    exit_code = 20


class BundleNotIntactError(ApplianceError):
    """The bundle was changed after it was signed, or its signature does not fit."""

    exit_code = 21


class BundleUntrustedError(ApplianceError):
    """The bundle is intact, but no trusted key says where it comes from."""

    exit_code = 22


class SigningKeyError(ApplianceError):
    """The signing key cannot be created, read, or used."""

    exit_code = 23


class StorageError(ApplianceError):
    """A file or folder cannot be written or read: disk full, no permission, wrong kind."""

    exit_code = 30


class RuntimeMissingError(ApplianceError):
    """Something this command needs is not installed or not usable on this machine."""

    exit_code = 31


class StageFailedError(ApplianceError):
    """A stage ended without its own error text (it was killed, or its process crashed)."""

    exit_code = 32


class RunFolderBusyError(ApplianceError):
    """Another process is working in the same run folder."""

    exit_code = 33


class ImageError(ApplianceError):
    """A container image is missing, cannot be built, or is not the one that was pinned."""

    exit_code = 34


class OutOfMemoryError(ApplianceError):
    """A stage used more memory than its container may."""

    exit_code = 35


class ReplayError(ApplianceError):
    """What is to be replayed or compared is not there, or not as it is asked for."""

    exit_code = 44


class NotReproducedError(ApplianceError):
    """A replay contradicts the original, or its declared claim."""

    exit_code = 40


class InconclusiveError(ApplianceError):
    """A replay contradicts nothing, but could not show what was asked for."""

    exit_code = 41


class InvalidInputsError(ApplianceError):
    """A replay was not given what the original was made from."""

    exit_code = 42


class DifferentResultsError(ApplianceError):
    """Two results that were compared are not the same."""

    exit_code = 43


class InterruptedCommandError(ApplianceError):
    """Ctrl-C, where the same command again would not go on; the text says which one does."""

    exit_code = 130
