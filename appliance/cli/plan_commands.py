"""`plan build`, `plan verify`, `plan show`, `plan exposure`, `plan compare`: their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli.groups import WholeHelpGroup
from appliance.cli.options import DatasetOption, JsonOption, PlanArgument
from appliance.cli.plan_flags import (
    PlanCommand,
    collect_plan_parameters,
    takes_plan_parameters,
)

plan_app = typer.Typer(
    cls=WholeHelpGroup, no_args_is_help=True, help="Build, check and look at sampling plans."
)

CheckedDatasetOption = Annotated[
    Path | None, typer.Option("--root", help="The dataset folder.", show_default=False)
]
BatchSizeOption = Annotated[
    int | None, typer.Option(min=1, help="Frames a step. Default: the plan's batch size.")
]
ReplacementOption = Annotated[
    bool | None,
    typer.Option("--replacement/--no-replacement", help="Override the plan's.", show_default=False),
]


@plan_app.command("build", cls=PlanCommand)
@takes_plan_parameters
def plan_build(
    *,
    root: DatasetOption,
    repo_id: Annotated[
        str, typer.Option(help="The dataset's name, recorded in the plan.", show_default=False)
    ],
    out_dir: Annotated[
        Path,
        typer.Option(help="Receives plan_meta.json and plan_arrays.npz.", show_default=False),
    ],
    train_config: Annotated[
        str,
        typer.Option(
            help="Training configuration; gives H and the batch size.", show_default=False
        ),
    ],
    action_horizon: Annotated[
        int | None, typer.Option(help="H, in frames. Default: the training configuration's.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Default: the training configuration's.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a plan that is there already.")
    ] = False,
    as_json: JsonOption = False,
    **values: Any,
) -> None:
    """Build a sampling plan from a dataset's tabular columns; no image is read."""
    from appliance.cli.plans import build

    build(
        root,
        out_dir,
        collect_plan_parameters(values),
        repo_id=repo_id,
        train_config=train_config,
        action_horizon=action_horizon,
        batch_size=batch_size,
        overwrite=overwrite,
        as_json=as_json,
    )


@plan_app.command("verify")
def plan_verify(
    plan: PlanArgument,
    root: CheckedDatasetOption = None,
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="Build the plan again from --root and compare."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a plan, alone or against its dataset, and print everything that is wrong."""
    from appliance.cli.plans import verify

    verify(plan, root, rebuild=rebuild, as_json=as_json)


@plan_app.command("show")
def plan_show(
    plan: PlanArgument,
    *,
    root: CheckedDatasetOption = None,
    num_train_steps: Annotated[
        int | None,
        typer.Option(min=0, help="Budget. Default: the training configuration's."),
    ] = None,
    batch_size: BatchSizeOption = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            help="Draw one episode's state, events, stages and weights into this .png or .svg"
            " (needs --root)."
        ),
    ] = None,
    episode: Annotated[
        int | None, typer.Option(help="Episode of the picture. Default: the first one kept.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a plan: stages, events, weights, coverage for a budget, a picture of an episode."""
    from appliance.cli.plans import show

    show(
        plan,
        root,
        num_train_steps=num_train_steps,
        batch_size=batch_size,
        picture=picture,
        episode=episode,
        as_json=as_json,
    )


@plan_app.command("exposure", cls=PlanCommand)
def plan_exposure(
    plan: PlanArgument,
    num_train_steps: Annotated[
        int, typer.Option(min=0, help="Budget: training steps.", show_default=False)
    ],
    batch_size: BatchSizeOption = None,
    replacement: ReplacementOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a training budget will see of a plan."""
    from appliance.cli.plans import show_exposure

    show_exposure(
        plan,
        num_train_steps=num_train_steps,
        batch_size=batch_size,
        replacement=replacement,
        as_json=as_json,
    )


@plan_app.command("compare")
def plan_compare(
    a: Annotated[Path, typer.Argument(help="A plan.", metavar="A", show_default=False)],
    b: Annotated[Path, typer.Argument(help="Another plan.", metavar="B", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Say which settings, episodes, anchors, stages and weights differ; exit code 12 if any."""
    from appliance.cli.plans import compare

    compare(a, b, as_json=as_json)
