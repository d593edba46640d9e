"""Batches on the device before they are asked for.

A thread takes batches from the loader, puts them on the devices and keeps ``DEPTH`` of them ready,
so that loading and copying run beside the training step. The order is the loader's.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.errors import TrainingError
from appliance.training.data import Item
from appliance.training.step import Batch

DEPTH = 2
_POLL_S = 0.1

Rows = npt.NDArray[np.int64]
Fed = tuple[Rows, Batch]
"""The dataset rows of a batch (this process's part), and the batch on the devices."""


class DeviceFeed:
    """An iterator over the batches of ``loader``, each placed by ``place`` in a thread.

    The loader starts its workers in that thread as well: in the main thread torch would let a dead
    worker interrupt whatever runs there, a checkpoint being saved among it.
    """

    def __init__(self, loader: Iterable[Item], place: Callable[[Item], Batch]) -> None:
        self._loader = loader
        self._place = place
        self._ready: queue.Queue[Fed | BaseException] = queue.Queue(maxsize=DEPTH)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="device-feed", daemon=True)
        self._thread.start()

    def __iter__(self) -> DeviceFeed:
        return self

    def __next__(self) -> Fed:
        """The next batch; what the loader raised is raised here."""
        found = self._ready.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        """Stop the thread; batches not asked for are dropped."""
        self._stopped.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            for batch in self._loader:
                self._put((np.asarray(batch["row"], dtype=np.int64), self._place(batch)))
                if self._stopped.is_set():
                    return
            self._put(StopIteration())
        except BaseException as error:  # noqa: BLE001 - handed over to the thread that asks
            self._put(error)

    def _put(self, entry: Any) -> None:
        while not self._stopped.is_set():
            try:
                self._ready.put(entry, timeout=_POLL_S)
            except queue.Full:
                continue
            return


@contextlib.contextmanager
def report_dead_workers() -> Iterator[None]:
    """Turn torch's report of a killed data worker into an error a person can act on.

    The feed hands it over where a batch is asked for. In a process whose main thread once started
    data workers, torch raises it from a signal handler, wherever that thread then is.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            f"A data loader worker died ({str(error).splitlines()[0]}). The system does this when"
            " memory runs out; lower train.num_workers, and run the same command again: it goes on"
            " from the last checkpoint."
        ) from error
