"""The index stream equals torch's own loaders, and a position in it is an integer."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, WeightedRandomSampler

from appliance.errors import PlanError
from appliance.training.sampler import AddressedBatches, IndexStream
from appliance.training.torch_sampler import TorchStream

POSITIONS: Any = range(23)
WEIGHTS_N = np.linspace(0.5, 2.0, 23, dtype=np.float32)


def take(stream: IndexStream, count: int) -> list[list[int]]:
    return [batch.tolist() for batch in itertools.islice(stream.batches(), count)]


def weighted(*, replacement: bool = True, weights: NDArray[np.float32] = WEIGHTS_N) -> IndexStream:
    return TorchStream(
        num_items=len(weights), batch_size=5, seed=7, weights_N=weights, replacement=replacement
    )


@pytest.mark.parametrize("replacement", [True, False])
def test_weighted_stream_is_that_of_the_stock_loader(replacement: bool) -> None:
    generator = torch.Generator().manual_seed(7)
    sampler = WeightedRandomSampler(
        WEIGHTS_N.astype(np.float64).tolist(),
        len(WEIGHTS_N),
        replacement=replacement,
        generator=generator,
    )
    loader: Any = DataLoader(POSITIONS, batch_size=5, sampler=sampler, drop_last=True)
    stock = [batch.tolist() for _ in range(3) for batch in loader]
    assert take(weighted(replacement=replacement), 12) == stock
    assert len(stock) == 12


def test_shuffled_stream_is_that_of_the_stock_loader() -> None:
    stream = TorchStream(num_items=23, batch_size=5, seed=42)
    generator = torch.Generator().manual_seed(42)
    loader: Any = DataLoader(
        POSITIONS, batch_size=5, shuffle=True, drop_last=True, generator=generator
    )
    assert take(stream, 4) == [batch.tolist() for batch in loader]


def test_shuffled_stream_takes_each_item_at_most_once_an_epoch() -> None:
    batches = take(TorchStream(num_items=23, batch_size=5, seed=1), 8)
    for epoch in (batches[:4], batches[4:]):
        drawn = [index for batch in epoch for index in batch]
        assert len(set(drawn)) == len(drawn) == 20


@pytest.mark.parametrize("start", [0, 1, 3, 4, 5, 11])
def test_resuming_at_a_step_gives_the_rest_of_the_stream(start: int) -> None:
    stream = weighted()
    whole = list(AddressedBatches(stream, start_step=0, stop_step=12))
    rest = AddressedBatches(stream, start_step=start, stop_step=12)
    assert list(rest) == whole[start:]
    assert len(rest) == 12 - start
    assert whole[3][2][:2] == (3, 2)


def test_two_streams_with_one_seed_are_equal_and_with_another_are_not() -> None:
    other = TorchStream(num_items=23, batch_size=5, seed=8, weights_N=WEIGHTS_N)
    assert take(weighted(), 6) == take(weighted(), 6) != take(other, 6)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    take(weighted(), 3)
    take(TorchStream(num_items=23, batch_size=5, seed=1), 3)
    assert torch.equal(before, torch.random.get_rng_state())


def test_too_few_items_for_a_batch_are_refused() -> None:
    with pytest.raises(
        PlanError, match=r"^Not enough anchors for one batch: anchors=3, required>=5"
    ):
        weighted(weights=WEIGHTS_N[:3]).check()


def test_zero_weights_without_replacement_are_refused() -> None:
    weights = WEIGHTS_N.copy()
    weights[4] = 0
    weighted(weights=weights).check()
    with pytest.raises(PlanError, match="1 of 23 weights are zero"):
        weighted(weights=weights, replacement=False).check()
    with pytest.raises(PlanError, match="23 of 23 weights are zero"):
        weighted(weights=np.zeros(23, dtype=np.float32)).check()
