"""The parent's side of a simulator that lives in a process of its own.

Every call has a limit; a child that dies or does not answer in time is ended and becomes a
SimulatorLostError. How a child is started and what its messages look like is a subclass's.
"""

from __future__ import annotations

import abc
import contextlib
import logging
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from appliance.errors import ApplianceError, SimulatorError
from appliance.files import storage_errors
from appliance.simulator.faults import ActionError, SimulatorLostError, TaskRaisedError
from appliance.simulator.spec import SceneSpec
from appliance.simulator.values import (
    STATE_SIZE,
    Demonstration,
    ExpertOutcome,
    Observation,
    StepResult,
)

START_TIMEOUT_S = 600.0
CALL_TIMEOUT_S = 600.0
LARGEST_SEED = 2**32 - 1
_CLOSE_TIMEOUT_S = 2.0
_LOG_TAIL_LINES = 5

logger = logging.getLogger(__name__)

Spec = TypeVar("Spec", bound=SceneSpec)


@dataclass(frozen=True, slots=True)
class Failure:
    """What a child sends instead of a result: an error of ours, or an unexpected one's text."""

    error: ApplianceError | None
    text: str


class Child(Protocol):
    """A running child process."""

    @property
    def pid(self) -> int | None:
        """Its process id."""

    def end(self, patience_s: float) -> int | None:
        """Wait, kill it (and what it started) after ``patience_s``, and return its exit code."""


class SimulatorClient(abc.ABC, Generic[Spec]):
    """One simulator in a child process; use it as a context manager or call start and close.

    One call at a time; ``close`` alone may come from another thread, and is for good.
    ``call_timeout_s`` bounds each call; a call that runs over it ends the child.
    ``start_timeout_s`` bounds its start, by default as the backend needs. The child's output
    goes to ``log_path`` (a temporary file by default).
    """

    default_start_timeout_s: ClassVar[float] = START_TIMEOUT_S

    def __init__(
        self,
        spec: Spec,
        *,
        log_path: Path | None = None,
        call_timeout_s: float = CALL_TIMEOUT_S,
        start_timeout_s: float | None = None,
    ) -> None:
        self._spec = spec
        self._call_timeout_s = call_timeout_s
        self._start_timeout_s = (
            self.default_start_timeout_s if start_timeout_s is None else start_timeout_s
        )
        self._lock = threading.Lock()
        self._is_closed = False
        self._log_path = log_path
        self._own_log: Path | None = None
        self._child: Child | None = None
        self._connection: Connection | None = None
        self._description: Mapping[str, Any] = {}

    @abc.abstractmethod
    def _launch(self, log_path: Path) -> tuple[Child, Connection]:
        """Start the child; it sends its description, or a failure, first."""

    @abc.abstractmethod
    def _write(self, connection: Connection, name: str, arguments: tuple[object, ...]) -> None:
        """Send a call. Raises OSError when the child is gone."""

    @abc.abstractmethod
    def _read(self, connection: Connection) -> Any:
        """The answer that came, or a Failure. Raises EOFError, OSError when the child is gone."""

    @property
    def log_path(self) -> Path | None:
        """Where the child's output goes; known once it is started."""
        return self._log_path

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        return self._child.pid if self._child is not None else None

    def start(self) -> None:
        """Start the child and wait until it can render. Raises SimulatorError, StorageError."""
        if self._child is not None:
            return
        self._refuse_if_closed()
        log_path = self._open_log()
        child, connection = self._launch(log_path)
        with self._lock:
            self._child, self._connection = child, connection
        try:
            self._refuse_if_closed()
            self._description = self._receive("start", self._start_timeout_s)
        except SimulatorError:
            self._end(_CLOSE_TIMEOUT_S)
            raise
        logger.info("simulator for %s started, log %s", self._spec.task, log_path)

    def close(self) -> None:
        """End the child, also one that is being started; safe to call twice.

        A temporary log goes with it unless it failed.
        """
        with self._lock:
            self._is_closed = True
        self._end(_CLOSE_TIMEOUT_S)
        if self._own_log is not None:
            self._own_log.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def describe(self) -> Mapping[str, Any]:
        """Names and versions for records: specification, runtime, SAPIEN, renderer, a note."""
        return self._description

    def expert_check(self, seed: int) -> ExpertOutcome:
        """Let the expert play ``seed``; a seed it fails is skipped by RoboTwin's evaluation."""
        return cast(ExpertOutcome, self._call("expert_check", check_seed(seed)))

    def reset(self, seed: int, instruction_type: str = "unseen") -> Observation:
        """Begin the trial ``seed``; its instruction is drawn from the templates of that type."""
        return cast(Observation, self._call("reset", check_seed(seed), instruction_type))

    def step(
        self, actions_KxA: NDArray[np.floating[Any]], *, want_frames: bool = True
    ) -> StepResult:
        """Execute K actions open loop, stopping at success or the step limit.

        Raises ActionError for actions that are not a finite (K, 14) array with K >= 1.
        """
        return cast(StepResult, self._call("step", check_actions(actions_KxA), want_frames))

    def demonstrate(self, seed: int, instruction_type: str = "seen") -> Demonstration:
        """Let the expert play ``seed`` and record it; a failed one has a reason and no frames."""
        return cast(Demonstration, self._call("demonstrate", check_seed(seed), instruction_type))

    def digest_physics(self) -> str:
        """A digest of every pose and joint value of the present trial."""
        return cast(str, self._call("digest_physics"))

    def _refuse_if_closed(self) -> None:
        with self._lock:
            if self._is_closed:
                raise SimulatorError("the simulator was closed. Make another one to go on.")

    def _call(self, name: str, *arguments: object) -> Any:
        """Ask the child and wait for its answer."""
        try:
            self._write(self._running(), name, arguments)
        except OSError:
            raise self._death(name) from None
        return self._receive(name, self._call_timeout_s)

    def _receive(self, name: str, timeout_s: float) -> Any:
        """The child's answer, or the SimulatorError that says why there is none.

        Whatever interrupts the waiting ends the child: its answer would be taken for another's.
        """
        connection = self._running()
        try:
            answered = connection.poll(timeout_s)
            answer = self._read(connection) if answered else None
        except (EOFError, OSError):
            raise self._death(name) from None
        except BaseException:
            self._end(0.0)
            raise
        if not answered:
            self._end(0.0)
            raise SimulatorLostError(
                f"the simulator of {self._spec.task} did not answer {name!r} within"
                f" {timeout_s:g} s and was ended.{self._log_hint()}"
            )
        if isinstance(answer, Failure):
            if answer.error is not None:
                raise answer.error
            raise TaskRaisedError(
                f"the simulator of {self._spec.task} failed in {name!r}: {answer.text}."
                f"{self._log_hint()}"
            )
        return answer

    def _running(self) -> Connection:
        connection = self._connection
        if connection is None:
            raise SimulatorError("the simulator is not running. Call start first.")
        return connection

    def _death(self, name: str) -> SimulatorLostError:
        """The error for a child that is gone."""
        code = self._end(_CLOSE_TIMEOUT_S)
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return SimulatorLostError(
            f"the simulator process of {self._spec.task} died in {name!r} ({how})."
            f"{self._log_hint()}"
        )

    def _end(self, patience_s: float) -> int | None:
        """End the child, by force after ``patience_s``, and return its exit code."""
        with self._lock:
            child, self._child = self._child, None
            connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.close()
        return None if child is None else child.end(patience_s)

    def _open_log(self) -> Path:
        """The log file, a temporary one unless the user named one."""
        if self._log_path is None:
            handle, name = tempfile.mkstemp(prefix="appliance-simulator-", suffix=".log")
            os.close(handle)
            self._log_path = self._own_log = Path(name)
        with storage_errors(self._log_path, "writing the simulator's log"):
            self._log_path.parent.mkdir(parents=True, exist_ok=True)
            self._log_path.touch()
        return self._log_path

    def _log_hint(self) -> str:
        """The last lines of the child's output, and where the rest is (kept from here on)."""
        self._own_log = None
        if self._log_path is None or not self._log_path.is_file():
            return ""
        text = self._log_path.read_text("utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        tail = " | ".join(lines[-_LOG_TAIL_LINES:])
        return f" Its last words: {tail or '(none)'}. Log: {self._log_path}."


def play_demonstrations(
    simulator: SimulatorClient[Any], first_seed: int, instruction_type: str = "seen"
) -> Iterator[Demonstration]:
    """The expert's demonstrations from ``first_seed`` upward, failed ones included."""
    for seed in range(first_seed, LARGEST_SEED + 1):
        yield simulator.demonstrate(seed, instruction_type)


def check_seed(seed: int) -> int:
    """``seed`` if RoboTwin's generators take it (0 to 2^32 - 1); else raise SimulatorError."""
    if not 0 <= seed <= LARGEST_SEED:
        raise SimulatorError(
            f"seed {seed}: must be 0 to {LARGEST_SEED}, as NumPy's generator takes."
        )
    return int(seed)


def check_actions(actions_KxA: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The actions as float64; raises ActionError unless finite and of shape (K, 14), K >= 1."""
    actions = np.asarray(actions_KxA)
    if actions.ndim != 2 or actions.shape[1] != STATE_SIZE or len(actions) == 0:
        raise ActionError(
            f"actions of shape {actions.shape}: expected (K, {STATE_SIZE}) with K >= 1 (left arm 6,"
            " left gripper, right arm 6, right gripper)."
        )
    if not np.issubdtype(actions.dtype, np.number) or not np.isfinite(actions).all():
        raise ActionError(
            "actions hold values that are not finite numbers. The policy's output is broken: look"
            " at its parameters and norm stats."
        )
    return actions.astype(np.float64)
