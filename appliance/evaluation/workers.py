"""Simulator processes at work: started when first needed, restarted when lost, one thread each.

A job whose simulator fails (killed, crashed, over its time, or the task raised) is done once more
in a fresh process; the second failure is the job's result. Each failure is in the journal.
Everything a job needs is in the job, so the number of workers and the order they finish in change
no result.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

from appliance.errors import SimulatorError
from appliance.evaluation.journal import Journal
from appliance.evaluation.protocols import SimulatorFactory, SimulatorProtocol
from appliance.simulator.faults import SimulatorLostError, TaskRaisedError, UnplayableTrialError

logger = logging.getLogger(__name__)

Job = TypeVar("Job")
Result = TypeVar("Result")


class SimulatorFailedTwiceError(SimulatorError):
    """The simulator failed twice on a job; ``failure_class`` is ``simulator`` or ``task``."""

    def __init__(self, what: str, error: SimulatorError) -> None:
        super().__init__(f"The simulator failed twice during {what}: {error}")
        self.failure_class = "task" if isinstance(error, TaskRaisedError) else "simulator"


class WorkerStoppedError(SimulatorError):
    """A job was not begun, or not done again, because the evaluation ends."""

    def __init__(self) -> None:
        super().__init__("The evaluation ends: no job is begun any more. Run it again to go on.")


class SimulatorWorker:
    """One simulator process and its replacements.

    ``stop`` and ``close`` may be called from another thread, whatever the worker is doing.
    """

    def __init__(self, number: int, factory: SimulatorFactory, journal: Journal) -> None:
        self.number = number
        self._factory = factory
        self._journal = journal
        self._simulator: SimulatorProtocol | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    @property
    def is_stopped(self) -> bool:
        """Whether no job is to be begun any more."""
        return self._stopped.is_set()

    def attempt(self, what: str, do: Callable[[SimulatorProtocol], Result]) -> Result:
        """Return ``do(simulator)``; a failed simulator is replaced, and ``do`` called again.

        ``what`` names the job in the journal. Raises SimulatorFailedTwiceError the second time,
        UnplayableTrialError at once, WorkerStoppedError once the worker is stopped, and whatever
        starting a simulator raises (no rendering device, nothing installed).
        """
        for tries_left in (1, 0):
            simulator = self._started()
            try:
                return do(simulator)
            except UnplayableTrialError:
                raise
            except SimulatorError as error:
                self._discard()
                if self.is_stopped:
                    raise WorkerStoppedError from error
                self._note_failure(what, error, again=tries_left == 1)
                if tries_left == 0:
                    raise SimulatorFailedTwiceError(what, error) from error
        raise AssertionError("unreachable")

    def stop(self) -> None:
        """Begin no job and start no simulator any more."""
        with self._lock:  # not between the last look at it and the new simulator's being known
            self._stopped.set()

    def close(self) -> None:
        """Stop, and end the process; a job in it fails at once and is not tried again."""
        self.stop()
        self._discard()

    def _started(self) -> SimulatorProtocol:
        """The running simulator; one that is lost while it starts is tried once more."""
        self._refuse_if_stopped()
        simulator = self._simulator
        if simulator is not None:
            return simulator
        try:
            return self._start()
        except SimulatorLostError as error:
            self._discard()
            self._refuse_if_stopped()
            self._note_failure("its start", error, again=True)
        return self._start()

    def _start(self) -> SimulatorProtocol:
        with self._lock:
            self._refuse_if_stopped()
            simulator = self._simulator = self._factory(self.number)
        simulator.start()
        if self.is_stopped:
            simulator.close()
            raise WorkerStoppedError
        row = {"worker": self.number, "description": dict(simulator.describe())}
        self._journal.append("started", row)
        return simulator

    def _refuse_if_stopped(self) -> None:
        if self.is_stopped:
            raise WorkerStoppedError

    def _note_failure(self, what: str, error: SimulatorError, *, again: bool) -> None:
        logger.warning("Simulator %d failed during %s: %s", self.number, what, error)
        row = {"worker": self.number, "job": what, "again": again, "error": str(error)}
        self._journal.append("failed", row)

    def _discard(self) -> None:
        with self._lock:
            simulator, self._simulator = self._simulator, None
        if simulator is not None:
            simulator.close()


def work_through(
    workers: Sequence[SimulatorWorker],
    take_job: Callable[[], Job | None],
    do_job: Callable[[SimulatorWorker, Job], None],
    *,
    wake: Callable[[], None],
) -> None:
    """Let every worker take and do jobs until ``take_job`` gives None; ``take_job`` is serialized.

    One worker works in the calling thread. The first error ends all: no job is begun after it,
    ``wake`` is called (it must end what workers wait for beside their simulators), the simulators
    are closed, and the error is raised again.
    """
    lock = threading.Lock()

    def work(worker: SimulatorWorker) -> None:
        while not worker.is_stopped:
            with lock:
                job = take_job()
            if job is None:
                return
            do_job(worker, job)

    if len(workers) == 1:
        with _ending_at_an_error(workers, wake):
            work(workers[0])
        return
    pool = ThreadPoolExecutor(len(workers), thread_name_prefix="simulator")
    with pool, _ending_at_an_error(workers, wake):
        futures = [pool.submit(work, worker) for worker in workers]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()


@contextlib.contextmanager
def _ending_at_an_error(
    workers: Sequence[SimulatorWorker], wake: Callable[[], None]
) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for worker in workers:  # all are told before the first is closed, which may take seconds
            worker.stop()
        wake()
        for worker in workers:
            worker.close()
        raise
