"""What differs between two plans: settings, episodes, anchors, stages, weights (`plan compare`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from appliance.episodes import IntArray, name_some
from appliance.plan.metadata import NOT_HASHED
from appliance.plan.plan import Plan

_NO_SETTINGS = (*NOT_HASHED, "summary", "episodes_keep")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlanDifference:
    """Differences from plan A to plan B; ``settings`` maps dotted names to both values.

    Anchors are dataset rows; stages and weights are compared on the anchors both plans have.
    """

    settings: Mapping[str, tuple[Any, Any]]
    episodes_only_a: IntArray
    episodes_only_b: IntArray
    anchors_only_a: IntArray
    anchors_only_b: IntArray
    stages_changed: IntArray
    weights_changed: IntArray
    extra_arrays_changed: tuple[str, ...]
    summary: Mapping[str, tuple[Any, Any]]

    def describe(self) -> list[str]:
        """One sentence a difference; empty when the plans have the same content."""
        lines = [
            f"{name} is {a!r} in one and {b!r} in the other."
            for name, (a, b) in {**self.settings, **self.summary}.items()
        ]
        parts = {
            "episodes only the first keeps": self.episodes_only_a,
            "episodes only the second keeps": self.episodes_only_b,
            "anchors only the first has, at rows": self.anchors_only_a,
            "anchors only the second has, at rows": self.anchors_only_b,
            "anchors of another stage, at rows": self.stages_changed,
            "anchors of another weight, at rows": self.weights_changed,
        }
        lines += [
            f"{len(ids)} {what}: {name_some(ids)}." for what, ids in parts.items() if len(ids)
        ]
        lines += [f"the array {name} differs." for name in self.extra_arrays_changed]
        return lines


def compare_plans(a: Plan, b: Plan) -> PlanDifference:
    """The differences between two plans' content."""
    episodes_a, episodes_b = _kept_episodes(a), _kept_episodes(b)
    _, in_a, in_b = np.intersect1d(a.anchor_indices, b.anchor_indices, return_indices=True)
    rows = a.anchor_indices[in_a]
    names = sorted(a.extra_arrays.keys() | b.extra_arrays.keys())
    return PlanDifference(
        settings=_differences(a.meta, b.meta, _NO_SETTINGS),
        episodes_only_a=np.setdiff1d(episodes_a, episodes_b),
        episodes_only_b=np.setdiff1d(episodes_b, episodes_a),
        anchors_only_a=np.setdiff1d(a.anchor_indices, b.anchor_indices),
        anchors_only_b=np.setdiff1d(b.anchor_indices, a.anchor_indices),
        stages_changed=rows[a.stage_ids[in_a] != b.stage_ids[in_b]],
        weights_changed=rows[a.weights[in_a] != b.weights[in_b]],
        extra_arrays_changed=tuple(name for name in names if not _same_array(a, b, name)),
        summary=_differences(a.meta.get("summary"), b.meta.get("summary"), (), "summary"),
    )


def _kept_episodes(plan: Plan) -> IntArray:
    kept = plan.meta.get("episodes_keep")
    ids = [e for e in kept if isinstance(e, int)] if isinstance(kept, list) else []
    return np.array(ids, dtype=np.int64)


def _same_array(a: Plan, b: Plan, name: str) -> bool:
    first, second = a.extra_arrays.get(name), b.extra_arrays.get(name)
    return first is not None and second is not None and np.array_equal(first, second)


def _differences(
    a: object, b: object, skipped: tuple[str, ...], name: str = ""
) -> dict[str, tuple[Any, Any]]:
    return dict(_iterate_differences(a, b, skipped, name))


def _iterate_differences(
    a: object, b: object, skipped: tuple[str, ...], name: str
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    if not (isinstance(a, Mapping) and isinstance(b, Mapping)):
        if a != b:
            yield name, (a, b)
        return
    for key in sorted((a.keys() | b.keys()) - set(skipped)):
        dotted = f"{name}.{key}" if name else str(key)
        yield from _iterate_differences(a.get(key), b.get(key), (), dotted)
