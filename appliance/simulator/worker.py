"""RoboTwin's PyPI runtime in a child process, so that it can neither print into nor take down ours.

The child is started fresh (``spawn``), its output goes to a log file, and it ends when its parent
does, whatever it is doing.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from appliance.errors import ApplianceError
from appliance.simulator.checkout_worker import end_with_parent
from appliance.simulator.process import Child, Failure, SimulatorClient
from appliance.simulator.renderer import Renderer, find_renderer
from appliance.simulator.spec import SimulatorSpec


class SimulatorProcess(SimulatorClient[SimulatorSpec]):
    """A simulator of RoboTwin's PyPI runtime, with our embodiment, planner and shader."""

    def _launch(self, log_path: Path) -> tuple[Child, Connection]:
        renderer = find_renderer()
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=serve,
            args=(theirs, self._spec, renderer, str(log_path)),
            name=f"simulator-{self._spec.task}",
            daemon=True,
        )
        process.start()
        theirs.close()
        return _SpawnedChild(process), ours

    def _write(self, connection: Connection, name: str, arguments: tuple[object, ...]) -> None:
        connection.send((name, arguments))

    def _read(self, connection: Connection) -> Any:
        return connection.recv()


class _SpawnedChild:
    """A child of :mod:`multiprocessing`."""

    def __init__(self, process: Any) -> None:
        self._process = process

    @property
    def pid(self) -> int | None:
        pid: int | None = self._process.pid
        return pid

    def end(self, patience_s: float) -> int | None:
        self._process.join(patience_s)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        code: int | None = self._process.exitcode
        self._process.close()
        return code


def serve(connection: Connection, spec: SimulatorSpec, renderer: Renderer, log_path: str) -> None:
    """The child's life: send its description, answer calls, end with its parent."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        end_with_parent(parent.sentinel)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _redirect_output(log_path)
    try:
        renderer.prepare_process()
        from appliance.simulator.session import Session

        session = Session(spec, str(renderer.device))
        _send(connection, session.describe())
    except ApplianceError as error:
        _send(connection, Failure(error, str(error)))
        return
    except Exception as error:  # noqa: BLE001 (the process's edge: the parent turns it into an error)
        traceback.print_exc()
        _send(connection, Failure(None, f"{type(error).__name__}: {error}"))
        return
    while True:
        try:
            name, arguments = connection.recv()
        except (EOFError, OSError):
            return
        _send(connection, _answer(session, name, arguments))


def _answer(session: Any, name: str, arguments: tuple[Any, ...]) -> Any:
    """The result of one call, or the failure to send in its place."""
    try:
        return getattr(session, name)(*arguments)
    except ApplianceError as error:
        return Failure(error, str(error))
    except Exception as error:  # noqa: BLE001 (the process's edge, as above)
        traceback.print_exc()
        return Failure(None, f"{type(error).__name__}: {error}")


def _send(connection: Connection, value: object) -> None:
    """Send; a parent that is gone ends the child at its next receive."""
    with contextlib.suppress(OSError):
        connection.send(value)


def _redirect_output(log_path: str) -> None:
    """Point stdout and stderr, also those of C++ libraries, to the log file, line by line."""
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
