"""Two evaluations compared: rates, intervals, a test, a sentence that a paper could print.

On the same trials the comparison is paired (exact McNemar); on different ones it is not (Fisher's
exact test), and says so. Evaluations of different tasks, robots or instructions are not compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from appliance.errors import EvaluationError
from appliance.evaluation.episodes_needed import (
    episodes_for_equivalence,
    episodes_for_fisher,
    episodes_for_mcnemar,
    episodes_for_paired_equivalence,
)
from appliance.evaluation.scored import ScoredEvaluation, read_evaluation
from appliance.evaluation.statistics import (
    CONFIDENCE,
    Equivalence,
    Interval,
    PairedCounts,
    check_alpha,
    check_margin,
    count_pairs,
    difference_interval,
    equivalence_paired,
    equivalence_two_proportions,
    fisher_exact_p,
    mcnemar_exact_p,
    wilson_interval,
)

SAME_FIELDS = ("task", "task_config", "simulator", "instruction_type")
"""What two evaluations must share beside their seeds for a difference to be the policies'."""

DEFAULT_ALPHA = 0.05
_TRIED_IN = ("name", "task", "task_config", "embodiment", "planner", "shader")
_EYES = ("cameras", "image_size")
_TAIL = (1 - CONFIDENCE) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two evaluations."""

    label: str
    successes: int
    episodes: int
    success_rate: float
    wilson_interval: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A comparison of two evaluations, first against second.

    ``pairs`` and ``mcnemar_p`` are there when both played the same trials, ``fisher_p`` when they
    did not. ``interval`` is the 95 % interval of the difference of rates (Tango's for pairs, else
    Newcombe's). ``equivalence`` is there when a margin was declared. ``episodes_needed`` is how
    many trials (a side, if not common) would decide with power 0.8, if the rates seen are true and,
    for equivalence, equal; None when it is decided or no number up to the bound does.
    """

    first: Side
    second: Side
    difference: float
    interval: Interval
    intervals_overlap: bool
    pairs: PairedCounts | None
    mcnemar_p: float | None
    fisher_p: float | None
    equivalence: Equivalence | None
    episodes_needed: int | None
    notes: tuple[str, ...]

    @property
    def is_paired(self) -> bool:
        """Whether both were made on the same trials."""
        return self.pairs is not None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, with ``paired``, ``sentence`` and what follows from the equivalence."""
        value = {**asdict(self), "paired": self.is_paired, "sentence": self.sentence}
        if self.equivalence is not None:
            value["equivalence"] |= {
                "p": self.equivalence.p,
                "is_equivalent": self.equivalence.is_equivalent,
            }
        return value

    @property
    def sentence(self) -> str:
        """What a paper could print, with its notes."""
        return " ".join([self._describe_difference(), *self._describe_equivalence(), *self.notes])

    def _describe_difference(self) -> str:
        low, high = _percent(self.interval)
        gap = (
            f"a difference of {100 * self.difference:+.1f} percentage points (95 % interval"
            f" {low:+.1f} to {high:+.1f}"
        )
        sides = f"{_describe(self.first)} and {_describe(self.second)}"
        if self.pairs is not None and self.mcnemar_p is not None:
            return (
                f"On the same {self.first.episodes} trials {sides}, {gap}; exact McNemar test p ="
                f" {format_p(self.mcnemar_p)}; {self.pairs.only_first} trials solved only by"
                f" {self.first.label}, {self.pairs.only_second} only by {self.second.label})."
            )
        assert self.fisher_p is not None
        return (
            f"On different trials {sides}, {gap}; Fisher's exact test p ="
            f" {format_p(self.fisher_p)}; unpaired, because the sets of trials differ)."
        )

    def _describe_equivalence(self) -> list[str]:
        found = self.equivalence
        if found is None:
            return []
        low, high = _percent(found.interval)
        shown = "are equivalent" if found.is_equivalent else "are not shown to be equivalent"
        level = 100 * (1 - 2 * found.alpha)
        text = (
            f"Within a margin of {100 * found.margin:g} percentage points the two rates {shown}"
            f" (two one-sided score tests, p = {format_p(found.p)}, alpha = {found.alpha:g};"
            f" {level:g} % interval {low:+.1f} to {high:+.1f})."
        )
        if found.is_equivalent or self.episodes_needed is None:
            return [text]
        trials = "common trials" if self.is_paired else "trials a side"
        return [text, f"If they are equal, about {self.episodes_needed} {trials} would show it."]


def compare_evaluations(
    first_dir: Path,
    second_dir: Path,
    *,
    first_label: str,
    second_label: str,
    margin: float | None = None,
    alpha: float = DEFAULT_ALPHA,
) -> Comparison:
    """Compare the evaluations in two ``content/`` folders.

    ``margin`` is the difference of rates that counts as none, declared before looking. Raises
    EvaluationError when ``margin`` or ``alpha`` cannot be tested or the two are not of the same
    task in the same simulator, StorageError when a file is missing or unreadable.
    """
    check_levels(margin, alpha)
    first, second = read_evaluation(first_dir), read_evaluation(second_dir)
    for field in SAME_FIELDS:
        _check_same(field, *(_decisive(each.metrics.get(field)) for each in (first, second)))
    sides = _side(first_label, first), _side(second_label, second)
    if set(first.successes) == set(second.successes):
        return _compare_pairs(first, second, sides, margin, alpha)
    return _compare_independent(first, second, sides, margin, alpha)


def check_levels(margin: float | None, alpha: float) -> None:
    """Raise EvaluationError unless they can be tested; without a margin, only ``alpha`` counts."""
    if margin is None:
        check_alpha(alpha)
    else:
        check_margin(margin, alpha)


def _compare_pairs(
    first: ScoredEvaluation,
    second: ScoredEvaluation,
    sides: tuple[Side, Side],
    margin: float | None,
    alpha: float,
) -> Comparison:
    seeds = sorted(first.successes)
    pairs = count_pairs(
        [first.successes[seed] for seed in seeds], [second.successes[seed] for seed in seeds]
    )
    n = pairs.trials
    p = mcnemar_exact_p(pairs.only_first, pairs.only_second)
    found = None if margin is None else equivalence_paired(pairs, margin=margin, alpha=alpha)
    needed = None
    if found is not None and not found.is_equivalent:
        discordant = (pairs.only_first + pairs.only_second) / n
        needed = episodes_for_paired_equivalence(discordant, found.margin, alpha)
    elif found is None and p > alpha:
        needed = episodes_for_mcnemar(pairs.only_first / n, pairs.only_second / n, alpha)
    return Comparison(
        first=sides[0],
        second=sides[1],
        difference=sides[0].success_rate - sides[1].success_rate,
        interval=equivalence_paired(pairs, margin=0.5, alpha=_TAIL).interval,
        intervals_overlap=sides[0].wilson_interval.overlaps(sides[1].wilson_interval),
        pairs=pairs,
        mcnemar_p=p,
        fisher_p=None,
        equivalence=found,
        episodes_needed=needed,
        notes=_notes(first, second, sides),
    )


def _compare_independent(
    first: ScoredEvaluation,
    second: ScoredEvaluation,
    sides: tuple[Side, Side],
    margin: float | None,
    alpha: float,
) -> Comparison:
    counts = (sides[0].successes, sides[0].episodes, sides[1].successes, sides[1].episodes)
    p = fisher_exact_p(*counts)
    found = None
    needed = None
    if margin is not None:
        found = equivalence_two_proportions(*counts, margin=margin, alpha=alpha)
    if found is not None and not found.is_equivalent:
        rate = (counts[0] + counts[2]) / (counts[1] + counts[3])
        needed = episodes_for_equivalence(rate, found.margin, alpha)
    elif found is None and p > alpha:
        needed = episodes_for_fisher(sides[0].success_rate, sides[1].success_rate, alpha)
    return Comparison(
        first=sides[0],
        second=sides[1],
        difference=sides[0].success_rate - sides[1].success_rate,
        interval=difference_interval(*counts),
        intervals_overlap=sides[0].wilson_interval.overlaps(sides[1].wilson_interval),
        pairs=None,
        mcnemar_p=None,
        fisher_p=p,
        equivalence=found,
        episodes_needed=needed,
        notes=_notes(first, second, sides),
    )


def format_p(p: float) -> str:
    """A p-value as papers print it: three decimals, or two significant digits below 0.001."""
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def _notes(
    first: ScoredEvaluation, second: ScoredEvaluation, sides: tuple[Side, Side]
) -> tuple[str, ...]:
    """What a reader must know beside the figures."""
    notes = []
    common = sorted(set(first.successes) & set(second.successes))
    if common and len(common) < max(len(first.successes), len(second.successes)):
        notes.append(f"{len(common)} trials are in both sets; pin one list for a sharper test.")
    moved = [
        seed
        for seed in common
        if None not in (first.starts[seed], second.starts[seed])
        and first.starts[seed] != second.starts[seed]
    ]
    if moved:
        notes.append(
            f"{len(moved)} common trials began from another scene (first: seed {moved[0]}): the"
            " simulators, or the arithmetic of their machines, are not the same."
        )
    if first.unplayed or second.unplayed:
        notes.append(
            f"Not played, and counted as failures: {len(first.unplayed)} trials of"
            f" {sides[0].label}, {len(second.unplayed)} of {sides[1].label}."
        )
    ours, theirs = first.metrics.get("simulator"), second.metrics.get("simulator")
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        keys = {*ours, *theirs} - {*_TRIED_IN, *_EYES}
        odd = sorted(key for key in keys if ours.get(key) != theirs.get(key))
        if odd:
            notes.append(f"The simulators differ in {', '.join(odd)}.")
    for side in (first, second):
        if side.metrics["policy"].get("noise", "controlled") != "controlled":
            notes.append("A policy server drew its own noise: a repetition may differ.")
            break
    note = first.metrics.get("note")
    return (*notes, str(note)) if note else tuple(notes)


def _check_same(field: str, first: object, second: object) -> None:
    if first == second:
        return
    raise EvaluationError(
        f"The two evaluations differ in {field}: {_difference(first, second)}. A difference of"
        " rates would not be one of policies; evaluate both alike."
    )


def _decisive(value: object) -> object:
    """A simulator without what need not be alike: the policy's pictures, the code's digests."""
    if not isinstance(value, Mapping):
        return value
    return {key: item for key, item in value.items() if key in _TRIED_IN}


def _difference(first: object, second: object) -> str:
    if not (isinstance(first, Mapping) and isinstance(second, Mapping)):
        return f"{first!r} and {second!r}"
    keys = sorted(key for key in {*first, *second} if first.get(key) != second.get(key))
    return ", ".join(f"{key} {first.get(key)!r} and {second.get(key)!r}" for key in keys)


def _side(label: str, evaluation: ScoredEvaluation) -> Side:
    solved, episodes = sum(evaluation.successes.values()), len(evaluation.successes)
    return Side(
        label=label,
        successes=solved,
        episodes=episodes,
        success_rate=solved / episodes,
        wilson_interval=wilson_interval(solved, episodes),
    )


def _describe(side: Side) -> str:
    low, high = _percent(side.wilson_interval)
    return (
        f"{side.label} succeeded in {side.successes} of {side.episodes}"
        f" ({100 * side.success_rate:.1f} %, 95 % Wilson interval {low:.1f} to {high:.1f} %)"
    )


def _percent(interval: Interval) -> tuple[float, float]:
    return 100 * interval.low, 100 * interval.high
