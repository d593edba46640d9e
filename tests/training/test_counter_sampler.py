"""The counter sampler: any draw by its number, the right shares, every item once an epoch."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.digest import sha256_bytes
from appliance.errors import PlanError
from appliance.training.counter_sampler import (
    ROUNDS,
    CounterStream,
    build_table,
    find_buckets,
    permute,
    philox_words,
    scale_words,
)
from appliance.training.sampler import AddressedBatches
from appliance.training.torch_sampler import TorchStream

WEIGHTS_N = np.linspace(0.5, 2.0, 23, dtype=np.float32)
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
INCREMENTS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)


def weighted(num_items: int = 23, batch_size: int = 5, seed: int = 7) -> CounterStream:
    weights = np.resize(WEIGHTS_N, num_items)
    return CounterStream(
        num_items=num_items, batch_size=batch_size, seed=seed, weights_N=weights, replacement=True
    )


def shuffled(num_items: int = 23, batch_size: int = 5, seed: int = 7) -> CounterStream:
    return CounterStream(num_items=num_items, batch_size=batch_size, seed=seed)


def philox_block(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10 by its definition (Salmon et al. 2011, section 4.3)."""
    word = (1 << 64) - 1
    for _ in range(10):
        first, second = counter[0] * MULTIPLIERS[0], counter[2] * MULTIPLIERS[1]
        counter = [
            (second >> 64) ^ counter[1] ^ key[0],
            second & word,
            (first >> 64) ^ counter[3] ^ key[1],
            first & word,
        ]
        key = [(each + step) & word for each, step in zip(key, INCREMENTS, strict=True)]
    return counter


def test_the_words_are_those_of_the_published_test_vector() -> None:
    # Random123's kat_vectors: philox4x64-10, counter 0, key 0.
    published = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert philox_block([0, 0, 0, 0], [0, 0]) == published
    assert philox_words(0, 0, 4).tolist() == published


@given(key=st.integers(0, (1 << 63) - 1), first=st.integers(0, 1 << 50), count=st.integers(0, 11))
def test_word_n_is_a_lane_of_block_n_of_four(key: int, first: int, count: int) -> None:
    expected = [
        philox_block([number // 4, 0, 0, 0], [key, 0])[number % 4]
        for number in range(first, first + count)
    ]
    assert philox_words(key, first, count).tolist() == expected


@given(
    words=st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=8),
    total=st.integers(1, (1 << 63) - 1),
)
def test_scaling_a_word_is_exact(words: list[int], total: int) -> None:
    scaled = scale_words(np.array(words, dtype=np.uint64), total)
    assert scaled.tolist() == [word * total >> 64 for word in words]


@given(
    st.integers(1, 200).flatmap(
        lambda n: st.tuples(
            st.just(n), st.integers(0, 3 * n), st.integers(0, 3 * n), st.booleans(), st.integers(0)
        )
    )
)
def test_any_draws_equal_the_same_draws_of_the_whole_stream(
    case: tuple[int, int, int, bool, int],
) -> None:
    num_items, first, count, with_weights, seed = case
    stream = (weighted if with_weights else shuffled)(num_items, 1, seed % (1 << 32))
    whole = stream.draw(0, first + count)
    assert stream.draw(first, count).tolist() == whole[first:].tolist()
    assert ((whole >= 0) & (whole < num_items)).all()


@given(num_items=st.integers(1, 3000), epoch=st.integers(0, 1 << 40), seed=st.integers(0, 1 << 62))
def test_each_item_comes_once_an_epoch(num_items: int, epoch: int, seed: int) -> None:
    drawn = shuffled(num_items, 1, seed).draw(epoch * num_items, num_items)
    assert sorted(drawn.tolist()) == list(range(num_items))


@given(
    processes=st.sampled_from([1, 2, 4, 8]),
    start=st.integers(0, 40),
    with_weights=st.booleans(),
)
def test_the_shares_of_the_processes_make_up_the_batch(
    processes: int, start: int, with_weights: bool
) -> None:
    stream = (weighted if with_weights else shuffled)(23, 8)
    whole = list(AddressedBatches(stream, start_step=start, stop_step=start + 5))
    share = 8 // processes
    parts = [
        AddressedBatches(
            stream,
            start_step=start,
            stop_step=start + 5,
            slots=range(rank * share, (rank + 1) * share),
        )
        for rank in range(processes)
    ]
    joined = [[address for part in step for address in part] for step in zip(*parts, strict=True)]
    assert joined == whole


@pytest.mark.parametrize("make", [weighted, shuffled])
@pytest.mark.parametrize("start", [0, 1, 4, 5, 11])
def test_resuming_at_a_step_gives_the_rest_of_the_stream(make: object, start: int) -> None:
    stream = make()  # type: ignore[operator]
    whole = list(AddressedBatches(stream, start_step=0, stop_step=12))
    assert list(AddressedBatches(stream, start_step=start, stop_step=12)) == whole[start:]


@given(st.lists(st.floats(0, 2.0**100, width=32), min_size=1, max_size=50))
def test_the_table_holds_the_weights_as_integers(values: list[float]) -> None:
    weights = np.array(values, dtype=np.float32)
    table = build_table(weights)
    counts = np.diff(table, prepend=0)
    assert ((counts > 0) == (weights > 0)).all()
    if weights.max() > 0:
        share = counts / counts.max()
        np.testing.assert_allclose(share, weights / weights.max().astype(np.float64), atol=1e-13)


def test_a_table_is_built_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    from appliance.training import counter_sampler

    weights = np.random.default_rng(0).uniform(0.1, 5, 1000).astype(np.float32)
    whole = build_table(weights)
    monkeypatch.setattr(counter_sampler, "BUILD_ROWS", 7)
    assert build_table(weights).tolist() == whole.tolist()


def test_a_word_falls_into_the_bucket_that_holds_its_share() -> None:
    table = build_table(np.array([0, 1, 0, 2, 1, 0], dtype=np.float32))
    quarter = 1 << 62
    words = [0, quarter - 1, quarter, 3 * quarter - 1, 3 * quarter, 4 * quarter - 1]
    found = find_buckets(table, np.array(words, dtype=np.uint64))
    assert found.tolist() == [1, 1, 3, 3, 4, 4]


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """Pearson's statistic in standard deviations from its mean under the hypothesis."""
    freedom = len(counts) - 1
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return (statistic - freedom) / (2 * freedom) ** 0.5


def test_items_are_drawn_in_proportion_to_their_weights() -> None:
    draws = 230_000
    counts = np.bincount(weighted().draw(0, draws), minlength=23)
    assert abs(chi_square(counts, draws * WEIGHTS_N / WEIGHTS_N.sum())) < 4


def test_every_order_of_four_items_is_as_likely() -> None:
    rng = np.random.default_rng(3)
    orders = Counter(
        tuple(
            permute(
                np.arange(4, dtype=np.uint64),
                4,
                list(rng.integers(0, 1 << 64, ROUNDS, dtype=np.uint64)),
            ).tolist()
        )
        for _ in range(480)
    )
    counts = np.array([orders[order] for order in itertools.permutations(range(4))])
    assert abs(chi_square(counts, np.full(24, 20.0))) < 4


def test_every_item_is_as_likely_at_every_place_of_an_epoch() -> None:
    num_items, epochs = 41, 2050
    stream = shuffled(num_items, 1)
    first = np.array([stream.draw(epoch * num_items, 2) for epoch in range(epochs)])
    for place in range(2):
        counts = np.bincount(first[:, place], minlength=num_items)
        assert abs(chi_square(counts, np.full(num_items, epochs / num_items))) < 4
    pairs = np.bincount((first[:, 1] - first[:, 0]) % num_items, minlength=num_items)
    assert pairs[0] == 0
    assert abs(chi_square(pairs[1:], np.full(num_items - 1, epochs / (num_items - 1)))) < 4


def test_the_stream_is_the_recorded_one_on_every_platform() -> None:
    drawn = [stream.draw(10**12, 500) for stream in (weighted(1000), shuffled(1000))]
    digests = [sha256_bytes(each.astype("<i8").tobytes())[:16] for each in drawn]
    assert digests == ["774072c5e1fd22d6", "3d86242b8f2441cc"]


def test_more_anchors_than_torch_takes_are_drawn() -> None:
    num_items = (1 << 24) + 1
    weights = np.ones(num_items, dtype=np.float32)
    stream = CounterStream(num_items=num_items, batch_size=32, seed=1, weights_N=weights)
    stream.check()
    assert len(set(stream.draw(0, 32).tolist())) == 32
    torch_stream = TorchStream(num_items=num_items, batch_size=32, seed=1, weights_N=weights)
    with pytest.raises(Exception, match=r"at most 16777216\. Use train\.sampler: counter"):
        torch_stream.check()


def test_seeds_give_different_streams() -> None:
    for make in (weighted, shuffled):
        assert make(seed=1).draw(0, 40).tolist() != make(seed=2).draw(0, 40).tolist()
        assert make(seed=1).draw(0, 23).tolist() != make(seed=1).draw(23, 23).tolist()


def test_zero_weights_are_never_drawn_and_refused_without_replacement() -> None:
    weights = WEIGHTS_N.copy()
    weights[[0, 4, 22]] = 0
    stream = CounterStream(num_items=23, batch_size=5, seed=7, weights_N=weights)
    stream.check()
    assert not {0, 4, 22} & set(stream.draw(0, 5000).tolist())
    with pytest.raises(PlanError, match="3 of 23 weights are zero"):
        CounterStream(
            num_items=23, batch_size=5, seed=7, weights_N=weights, replacement=False
        ).check()
