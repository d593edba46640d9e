"""Which state dimensions are drawn together: joints by arm where names tell, grippers apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePanel:
    """One panel: its title with the unit, each curve's label and state dimension.

    ``has_events`` is set for the grippers, whose changes are the events.
    """

    title: str
    labels: tuple[str, ...]
    dims: tuple[int, ...]
    has_events: bool = False


def find_gripper_dims(meta: Mapping[str, Any], num_dims: int) -> tuple[int, ...]:
    """The gripper dimensions a plan's metadata names, as far as the state has them."""
    event = meta.get("gripper_event")
    dims = event.get("gripper_dims") if isinstance(event, Mapping) else None
    if not isinstance(dims, list):
        return ()
    return tuple(dim for dim in dims if isinstance(dim, int) and 0 <= dim < num_dims)


def group_dims(
    num_dims: int, grippers: tuple[int, ...], names: Sequence[str] | None
) -> Iterator[StatePanel]:
    """Panels of the joints, by side where their names tell it, and one of the grippers."""
    labels = names if names is not None and len(names) == num_dims else None
    joints = [dim for dim in range(num_dims) if dim not in grippers]
    sides: dict[str, list[int]] = {}
    for dim in joints:
        first = labels[dim].split("_")[0] if labels else ""
        sides.setdefault(first if first in ("left", "right") else "", []).append(dim)
    for side, dims in sides.items():
        prefix = f"{side}_" if side else ""
        yield StatePanel(
            title=f"{side} arm (rad)" if side else "state (rad)",
            labels=tuple(
                labels[dim].removeprefix(prefix).replace("_", " ") if labels else f"dimension {dim}"
                for dim in dims
            ),
            dims=tuple(dims),
        )
    if grippers:
        yield StatePanel(
            title="gripper (1 = open)",
            labels=tuple(
                labels[dim].replace("_", " ") if labels else f"dimension {dim}" for dim in grippers
            ),
            dims=grippers,
            has_events=True,
        )
