"""Which items a step trains on: a function of (plan or no plan, sampler, seed, step), nothing else.

An :class:`IndexStream` is an endless, seeded stream of batches of positions. There are two kinds,
chosen by ``train.sampler``: ``torch`` (the method's own, Plan-STaR 3) and ``counter`` (random
access for any number of anchors). A resume point is an integer, the step.

Each item is addressed as ``(step, slot, position)``, so that a worker can seed itself from the
place of the item and not from its own number. With several processes each one takes its own slots
of every batch, and the slots keep their numbers.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from appliance.errors import PlanError

SamplerName = Literal["torch", "counter"]

ItemAddress = tuple[int, int, int]
"""(step, slot in the batch, position in the sampled set)."""

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IndexStream(ABC):
    """An endless, seeded stream of batches of positions 0..num_items-1.

    ``weights_N`` (float32) switches weighted drawing on; ``replacement`` matters only then. Without
    replacement each item comes once an epoch of ``num_items`` draws.
    """

    num_items: int
    batch_size: int
    seed: int
    weights_N: npt.NDArray[np.float32] | None = None
    replacement: bool = True

    @abstractmethod
    def batches(self, start_step: int = 0) -> Iterator[Positions]:
        """Batches of positions (int64), without end, from that of ``start_step`` on."""

    def check(self) -> None:
        """Raise PlanError or TrainingError when no batch can be drawn."""
        if self.num_items < self.batch_size:
            kind = "anchors" if self.weights_N is not None else "frames"
            raise PlanError(
                f"Not enough anchors for one batch: {kind}={self.num_items},"
                f" required>={self.batch_size}. Try smaller stride or more demos."
            )
        if self.weights_N is None:
            return
        positive = int(np.count_nonzero(self.weights_N > 0))
        if positive == 0 or (not self.replacement and positive < self.num_items):
            raise PlanError(
                f"{self.num_items - positive} of {self.num_items} weights are zero, so that many"
                " distinct anchors cannot be drawn. Use replacement, or a plan whose weights are"
                " all positive."
            )


class AddressedBatches(Sampler[list[ItemAddress]]):
    """Batches ``start_step`` .. ``stop_step - 1`` of a stream, each item with its address.

    ``slots`` are the places of each batch that this process loads; None = all.
    """

    def __init__(
        self, stream: IndexStream, *, start_step: int, stop_step: int, slots: range | None = None
    ) -> None:
        self.stream = stream
        self.start_step = start_step
        self.stop_step = stop_step
        self.slots = range(stream.batch_size) if slots is None else slots

    def __len__(self) -> int:
        return self.stop_step - self.start_step

    def __iter__(self) -> Iterator[list[ItemAddress]]:
        chosen = itertools.islice(self.stream.batches(self.start_step), len(self))
        for step, batch in enumerate(chosen, start=self.start_step):
            yield [(step, slot, int(batch[slot])) for slot in self.slots]
