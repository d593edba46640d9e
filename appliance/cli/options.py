"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON value for machines.")]
DatasetArgument = Annotated[
    Path, typer.Argument(help="The dataset folder.", metavar="ROOT", show_default=False)
]
DatasetOption = Annotated[
    Path, typer.Option("--root", help="The dataset folder.", show_default=False)
]
PlanArgument = Annotated[
    Path,
    typer.Argument(
        help="The plan: its folder, plan_meta.json or plan_arrays.npz.",
        metavar="PLAN",
        show_default=False,
    ),
]
EngineOption = Annotated[
    Literal["host", "docker"] | None,
    typer.Option(
        "--engine", help="Run the stages on this engine, not the manifest's.", show_default=False
    ),
]

LONGEST_TIMEOUT_S = 2_147_483
"""24 days: poll() takes milliseconds in 32 bits, and would take a longer time for another one."""


def check_wait(seconds: float) -> float:
    """``seconds`` if one can wait so long. Raises typer.BadParameter."""
    return _check_seconds(seconds, 0 <= seconds <= LONGEST_TIMEOUT_S, "0 to")


def check_time_limit(seconds: float) -> float:
    """``seconds`` if something can be done and be waited for in so long; BadParameter."""
    return _check_seconds(seconds, 0 < seconds <= LONGEST_TIMEOUT_S, "more than 0 and at most")


def _check_seconds(seconds: float, is_good: bool, least: str) -> float:
    if not is_good:  # nan compares as neither
        raise typer.BadParameter(
            f"{seconds:g} is no time to wait. Use {least} {LONGEST_TIMEOUT_S} seconds (24 days)."
        )
    return seconds
