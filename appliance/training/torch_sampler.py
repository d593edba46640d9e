"""The method's own sampler: exactly the order of torch's stock ``DataLoader`` (Plan-STaR 3).

With a plan the stream is torch's ``WeightedRandomSampler`` over the plan's anchors, without one
torch's ``RandomSampler``; both are cut into batches by torch's ``BatchSampler(drop_last=True)``,
epoch after epoch, with one generator. To go on at a step the stream is drawn again from its start,
which costs microseconds a batch, and the finished batches are dropped.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import BatchSampler, RandomSampler, Sampler, WeightedRandomSampler

from appliance.errors import TrainingError
from appliance.training.sampler import IndexStream, Positions

MAX_WEIGHTED_ITEMS = 1 << 24
"""torch.multinomial refuses more categories than this."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TorchStream(IndexStream):
    """torch's own samplers as an endless stream of batches."""

    def check(self) -> None:
        """Raise PlanError or TrainingError when no batch can be drawn."""
        IndexStream.check(self)
        if self.weights_N is not None and self.num_items > MAX_WEIGHTED_ITEMS:
            raise TrainingError(
                f"The plan has {self.num_items} anchors; torch's weighted sampler takes at most"
                f" {MAX_WEIGHTED_ITEMS}. Use train.sampler: counter, which takes any number, a"
                " larger stride, or fewer episodes."
            )

    def batches(self, start_step: int = 0) -> Iterator[Positions]:
        """Batches of positions, without end, from that of ``start_step`` on."""
        return itertools.islice(self._all_batches(), start_step, None)

    def _all_batches(self) -> Iterator[Positions]:
        epoch = BatchSampler(self._sampler(), self.batch_size, drop_last=True)
        while True:
            for batch in epoch:
                yield np.asarray(batch, dtype=np.int64)

    def _sampler(self) -> Sampler[int]:
        generator = torch.Generator()
        generator.manual_seed(self.seed)
        if self.weights_N is not None:
            weights = torch.from_numpy(np.asarray(self.weights_N, dtype=np.float64))
            return WeightedRandomSampler(
                weights,  # type: ignore[arg-type]  # torch takes a tensor, its stub a sequence
                num_samples=self.num_items,
                replacement=self.replacement,
                generator=generator,
            )
        # The stock loader with persistent workers draws one base seed before the first shuffle.
        torch.empty((), dtype=torch.int64).random_(generator=generator)
        return RandomSampler(range(self.num_items), generator=generator)
