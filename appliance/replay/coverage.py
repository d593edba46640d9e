"""What a level of equal bits speaks of, and what of it the reference does not say.

A fact that only the replay found is not compared: newer versions say more than older ones. But a
reference that is silent about what a level is about must not pass for one that agrees.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from appliance.replay.facts import Facts
from appliance.replay.levels import Level

NEEDED: Mapping[Level, tuple[str, ...]] = {
    Level.R1: (
        "dataset.figures.fingerprint",
        "plan.meta.plan_sha256",
        "plan.arrays.*.sha256",
        "norm_stats.norm_stats.*",
        "norm_stats.provenance.norm_stats_sha256",
        *(f"train.configuration.{name}" for name in ("seed", "batch_size", "num_train_steps")),
        "train.configuration.schedule_in_force.*",
        "train.configuration.train_config.model.*",
        "train.configuration.train_config.optimizer.*",
    ),
    Level.R2: ("train.steps.*.digest", "train.summary.hash_chain"),
    Level.R3: (
        "evaluate.trials.seeds",
        *(
            f"evaluate.episodes.*.{name}"
            for name in ("seed", "instruction", "first_observation", "outcome")
        ),
        "evaluate.metrics.episodes",
    ),
}
"""What was found under these paths (``*`` fits anything, dots too) has to stand there as well."""

SAMPLED = "train.steps."
"""A golden's expectations keep some steps only; the end of the chain stands for the others."""


def find_gaps(level: Level, expected: Facts, found: Facts, *, is_recorded: bool) -> list[str]:
    """The paths that ``level`` needs, that were found and that ``expected`` does not have.

    Of a part that is missing altogether, such as ``plan.arrays``, only its own path is given.
    ``is_recorded``: ``expected`` was recorded for a golden manifest, with some of the steps.
    """
    gaps: dict[str, None] = {}
    for path in _leaves(found, ()):
        name = ".".join(path)
        if is_recorded and name.startswith(SAMPLED):
            continue
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in NEEDED[level]):
            end = _first_missing(expected, path)
            if end is not None:
                gaps[".".join(path[: max(end, 2)])] = None
    return list(gaps)


def describe_gaps(gaps: Sequence[str], most: int = 4) -> str:
    """The gaps on one line; empty when there is none."""
    if not gaps:
        return ""
    more = f" and {len(gaps) - most} more" if len(gaps) > most else ""
    return f"the original does not say {', '.join(gaps[:most])}{more}"


def _leaves(facts: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, value in facts.items():
        place = (*path, str(name))
        if isinstance(value, Mapping):
            yield from _leaves(value, place)
        else:
            yield place


def _first_missing(facts: Mapping[str, Any], path: tuple[str, ...]) -> int | None:
    """How many steps of ``path`` lead to the first that is not there; None when all are."""
    place: Any = facts
    for depth, name in enumerate(path, start=1):
        if not isinstance(place, Mapping) or name not in place:
            return depth
        place = place[name]
    return None
