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
