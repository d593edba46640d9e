"""Training by several processes on this machine, joined by ``jax.distributed``.

The processes are started fresh (``spawn``), share each batch by its slots and all their devices as
one mesh, and end when this one does. Process 0 writes the run's files and reports progress. When
one fails, the others, which would wait for it for ever, are ended too; what was saved is kept.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from appliance.errors import (
    ApplianceError,
    RuntimeMissingError,
    StageFailedError,
    TrainingError,
)
from appliance.training.request import ProgressCallback, TrainRequest

GRACE_S = 2.0
"""How long the others may take to say what they know when one process has failed."""
_PR_SET_PDEATHSIG = 1


Work = Callable[[ProgressCallback], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a run is spread: processes, devices each makes of the CPU, and GPUs of all together."""

    processes: int = 1
    cpu_devices: int = 1
    gpus: int = 0

    def local_gpus(self, rank: int) -> list[int] | None:
        """Numbers of the GPUs of process ``rank``; None without GPUs."""
        share = self.gpus // self.processes
        return list(range(rank * share, (rank + 1) * share)) if self.gpus else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Where a run leaves its results."""

    content: Path
    observed: Path
    artifacts: Path


@dataclass(frozen=True, slots=True)
class _Failure:
    """What a process sends when it stops early."""

    error: ApplianceError | None
    text: str = ""
    advice: str = "What was saved is kept: run the same command again to continue."


@dataclass(frozen=True, slots=True)
class _Done:
    """What a process sends at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """What a process is started with; ``parent`` and ``level`` are this one's pid and log level."""

    work: Work
    layout: Layout
    rank: int
    address: str
    parent: int
    level: int


@dataclass(slots=True)
class _Member:
    process: SpawnProcess
    connection: Connection


def train_by_layout(
    request: TrainRequest, folders: Folders, layout: Layout, on_progress: ProgressCallback
) -> None:
    """``loop.train`` by ``layout``; raises what ``run_by_layout`` does."""
    run_by_layout(functools.partial(_train, request, folders), layout, on_progress)


def _train(request: TrainRequest, folders: Folders, on_progress: ProgressCallback) -> None:
    from appliance.training.loop import train

    train(request, folders.content, folders.observed, folders.artifacts, on_progress)


def run_by_layout(work: Work, layout: Layout, on_progress: ProgressCallback) -> None:
    """``work`` in this process, or in each of ``layout.processes`` new ones.

    ``work`` can be pickled. To be called before jax has started its devices. Raises ApplianceError
    as ``work`` does, RuntimeMissingError when jax cannot take its devices, StageFailedError when a
    process was killed.
    """
    if layout.gpus % layout.processes:
        raise TrainingError(
            f"{layout.gpus} GPUs cannot be shared by {layout.processes} processes. Change"
            " train.processes or runtime.gpus."
        )
    if layout.processes > 1:
        _run_together(work, layout, on_progress)
        return
    _make_cpu_devices(layout.cpu_devices)
    if (failure := _start_devices()) is not None:
        raise RuntimeMissingError(f"jax cannot start ({failure.text}). {failure.advice}")
    work(on_progress)


def _run_together(work: Work, layout: Layout, on_progress: ProgressCallback) -> None:
    members = _start_members(work, layout)
    try:
        _follow(members, on_progress)
    finally:
        for member in members:
            member.process.kill()
            member.process.join()
            member.connection.close()


def _start_members(work: Work, layout: Layout) -> list[_Member]:
    context = multiprocessing.get_context("spawn")
    address = f"127.0.0.1:{_find_free_port()}"
    level = logging.getLogger().level
    members = []
    for rank in range(layout.processes):
        ours, theirs = context.Pipe(duplex=False)
        start = _Start(
            work=work,
            layout=layout,
            rank=rank,
            address=address,
            parent=os.getpid(),
            level=level,
        )
        process = context.Process(
            target=_run_member, args=(theirs, start), name=f"training-{rank}", daemon=False
        )
        process.start()
        theirs.close()
        members.append(_Member(process, ours))
    return members


def _find_free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _follow(members: Sequence[_Member], on_progress: ProgressCallback) -> None:
    """Pass on progress until every process is done. Raises what the first to fail ended with."""
    running = {member.connection: member for member in members}
    failures: list[tuple[_Member, _Failure]] = []
    deadline_s: float | None = None
    while running and (deadline_s is None or time.monotonic() < deadline_s):
        for ready in wait(list(running), timeout=None if deadline_s is None else GRACE_S):
            assert isinstance(ready, Connection)
            member = running[ready]
            message = _receive(ready)
            if isinstance(message, tuple):
                on_progress(*message)
                continue
            del running[ready]
            if isinstance(message, _Failure):
                failures.append((member, message))
                deadline_s = deadline_s or time.monotonic() + GRACE_S
    if failures:
        raise _explain([*failures])


def _receive(connection: Connection) -> Any:
    try:
        return connection.recv()
    except (EOFError, ConnectionError):
        return _Failure(None)


def _explain(failures: Sequence[tuple[_Member, _Failure]]) -> ApplianceError:
    """The most telling of several failures: an error of ours, a kill, a lost connection."""
    for _, failure in failures:
        if failure.error is not None:
            return failure.error
    for member, failure in failures:
        member.process.join(GRACE_S)
        code = member.process.exitcode
        if not failure.text and code is not None and code < 0:
            return StageFailedError(
                f"{member.process.name} was ended by {signal.Signals(-code).name}. {failure.advice}"
            )
    member, failure = failures[0]
    reason = failure.text or f"exit code {member.process.exitcode}"
    return StageFailedError(
        f"{member.process.name} stopped unexpectedly ({reason}). {failure.advice}"
    )


def _run_member(connection: Connection, start: _Start) -> None:
    """The whole life of one process."""
    layout = start.layout
    _die_with(start.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the collectives library prints there
    logging.basicConfig(level=start.level if start.rank == 0 else logging.ERROR)
    import jax

    from appliance.training.mesh import meet

    def on_progress(done: int, total: int, text: str) -> None:
        if start.rank == 0:
            connection.send((done, total, text))

    _make_cpu_devices(layout.cpu_devices)
    try:
        jax.distributed.initialize(
            start.address,
            layout.processes,
            start.rank,
            local_device_ids=layout.local_gpus(start.rank),
            coordinator_bind_address=start.address,
        )
        if (failure := _start_devices()) is not None:
            _leave(connection, failure)
        meet("started")
        start.work(on_progress)
        jax.distributed.shutdown()  # type: ignore[no-untyped-call]
    except ApplianceError as error:
        _leave(connection, _Failure(error))
    except jax.errors.JaxRuntimeError as error:
        _leave(connection, _Failure(None, _first_line(error)))
    connection.send(_Done())


def _start_devices() -> _Failure | None:
    """Let jax take its devices and meet the other processes; why it cannot."""
    import jax

    try:
        jax.devices()
    # jax has no class of its own for a backend that does not start, nor one for none that is there
    except (RuntimeError, AssertionError) as error:
        platforms = os.environ.get("JAX_PLATFORMS", "any")
        text = _first_line(error) if str(error) else f"no device for JAX_PLATFORMS={platforms}"
        advice = (
            "On a CPU the processes meet at the name of this machine, which does not lead to it:"
            f" add the line `127.0.0.1 {socket.gethostname()}` to /etc/hosts, or set"
            " train.processes: 1."
            if "gloo" in text
            else "`appliance doctor` says what the machine has; then run the same command again."
        )
        return _Failure(None, text, advice)
    return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _leave(connection: Connection, failure: _Failure) -> None:
    """Say why and be gone at once: an orderly end would wait for the other processes."""
    connection.send(failure)
    connection.close()
    logging.shutdown()
    os._exit(1)


def _make_cpu_devices(count: int) -> None:
    import jax

    if count > 1:
        jax.config.update("jax_num_cpu_devices", count)  # type: ignore[no-untyped-call]


def _die_with(parent: int) -> None:
    """Let Linux kill this process when its parent dies (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
