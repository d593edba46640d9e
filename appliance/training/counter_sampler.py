"""The scalable sampler: draw number n is a function of (seed, n), in constant memory and time.

Draws are numbered through the whole run: step k takes draws k*B .. k*B+B-1. Any of them can be had
without the ones before, so resuming, splitting a batch over processes and 2^26 anchors cost
nothing.

*With weights and replacement*: word n of a Philox4x64-10 stream (Salmon et al. 2011), taken as a
fraction of 2^64, falls into a cumulative table of integers. The integers are the weights divided by
the largest one and scaled by a power of two, so that rounding moves a probability by less than
2^-36 of the largest; a probability is then met within 2^-64.

*Without replacement, and without a plan*: epoch e is a permutation, an alternating Feistel network
(Luby & Rackoff 1988) keyed by (seed, e) whose values outside 0..N-1 are sent round again (Black &
Rogaway 2002). Every item comes exactly once in the N draws of an epoch; a batch may hold the end of
one epoch and the start of the next. Weights play no part then (Plan-STaR 1.10).

Only integer arithmetic and one IEEE division a weight: the stream is the same on every platform.
Letters: N items, B draws asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from appliance.streams import stream_seed
from appliance.training.sampler import IndexStream, Positions

STREAM = "counter-sampler-v1"
TOTAL_BITS = 62
WEIGHT_BITS = 52
BUILD_ROWS = 1 << 20
LANES = 4
ROUNDS = 12
LEAST_BITS = 6

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CounterStream(IndexStream):
    """Random access into an endless stream of draws; ``table_N`` is the cumulative table."""

    table_N: Positions | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.weights_N is not None and self.replacement:
            object.__setattr__(self, "table_N", build_table(self.weights_N))

    def batches(self, start_step: int = 0) -> Iterator[Positions]:
        """Batches of positions, without end, from that of ``start_step`` on."""
        step = start_step
        while True:
            yield self.draw(step * self.batch_size, self.batch_size)
            step += 1

    def draw(self, first: int, count: int) -> Positions:
        """Positions (int64) of draws ``first`` .. ``first + count - 1``."""
        if self.table_N is not None:
            words = philox_words(stream_seed(self.seed, STREAM, "draws"), first, count)
            return find_buckets(self.table_N, words)
        numbers = np.arange(first, first + count, dtype=np.int64)
        epochs = numbers // self.num_items
        drawn = np.empty(count, dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            inside = epochs == epoch
            places = (numbers[inside] - epoch * self.num_items).astype(np.uint64)
            drawn[inside] = permute(places, self.num_items, self._round_keys(epoch))
        return drawn

    def _round_keys(self, epoch: int) -> list[np.uint64]:
        return list(philox_words(stream_seed(self.seed, STREAM, "epoch", epoch), 0, ROUNDS))


def philox_words(key: int, first: int, count: int) -> Words:
    """Words ``first`` .. ``first + count - 1`` of Philox4x64-10 under ``key``.

    Word n is lane n % 4 of the block whose 256-bit counter is n // 4.
    """
    block, lane = divmod(first, LANES)
    # NumPy counts up before it makes a block.
    generator = np.random.Philox(key=key, counter=(block - 1) % (1 << 256))
    return np.asarray(generator.random_raw(lane + count)[lane:], dtype=np.uint64)


def build_table(weights_N: npt.NDArray[np.float32]) -> Positions:
    """Cumulative sums (int64) of the weights as integers; a positive weight counts at least 1."""
    table = np.empty(len(weights_N), dtype=np.int64)
    largest = float(np.max(weights_N, initial=0.0))
    scale = float(1 << min(WEIGHT_BITS, TOTAL_BITS - len(weights_N).bit_length()))
    total = 0
    for start in range(0, len(weights_N), BUILD_ROWS):
        part = weights_N[start : start + BUILD_ROWS].astype(np.float64)
        shares = np.rint(part / largest * scale) if largest > 0.0 else np.zeros(len(part))
        counts = np.maximum(shares.astype(np.int64), (part > 0.0).astype(np.int64))
        sums = np.cumsum(counts) + total
        table[start : start + BUILD_ROWS] = sums
        total = int(sums[-1])
    return table


def find_buckets(table_N: Positions, words_B: Words) -> Positions:
    """The position whose share of the table each word, as a fraction of 2^64, falls into."""
    points = scale_words(words_B, int(table_N[-1])).astype(np.int64)
    return np.searchsorted(table_N, points, side="right").astype(np.int64)


def scale_words(words_B: Words, total: int) -> Words:
    """``floor(word * total / 2^64)`` for ``total`` < 2^63, in 32-bit halves."""
    half, low_mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    high, low = words_B >> half, words_B & low_mask
    total_high, total_low = np.uint64(total >> 32), np.uint64(total & 0xFFFFFFFF)
    cross = high * total_low
    carry = (low * total_low >> half) + (cross & low_mask) + (low * total_high & low_mask)
    scaled: Words = (
        high * total_high + (cross >> half) + (low * total_high >> half) + (carry >> half)
    )
    return scaled


def permute(places_B: Words, num_items: int, round_keys: list[np.uint64]) -> Positions:
    """Images of ``places`` (each < ``num_items``) under the permutation that the keys name."""
    bits = max(LEAST_BITS, (num_items - 1).bit_length())
    values = mix_halves(places_B, bits, round_keys)
    outside = values >= num_items
    while outside.any():
        values[outside] = mix_halves(values[outside], bits, round_keys)
        outside = values >= num_items
    return values.astype(np.int64)


def mix_halves(values_B: Words, bits: int, round_keys: list[np.uint64]) -> Words:
    """A permutation of 0..2^bits-1: the halves take turns in changing each other."""
    low_bits = bits // 2
    shift = np.uint64(low_bits)
    low_mask, high_mask = np.uint64((1 << low_bits) - 1), np.uint64((1 << bits - low_bits) - 1)
    high, low = values_B >> shift, values_B & low_mask
    for number, key in enumerate(round_keys):
        if number % 2:
            low = low ^ (scramble(high ^ key) & low_mask)
        else:
            high = high ^ (scramble(low ^ key) & high_mask)
    mixed: Words = (high << shift) | low
    return mixed


def scramble(values_B: Words) -> Words:
    """The finalizer of splitmix64 (Steele et al. 2014): every bit in reaches every bit out."""
    values = (values_B ^ (values_B >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scrambled: Words = values ^ (values >> np.uint64(31))
    return scrambled
