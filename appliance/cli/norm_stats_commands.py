"""`norm-stats compute`: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.groups import WholeHelpGroup
from appliance.cli.options import DatasetOption, JsonOption

norm_stats_app = typer.Typer(
    cls=WholeHelpGroup,
    no_args_is_help=True,
    help="Normalization statistics as a controlled variable.",
)


@norm_stats_app.command("compute")
def norm_stats_compute(
    *,
    root: DatasetOption,
    repo_id: Annotated[str, typer.Option(help="The dataset's name.", show_default=False)],
    train_config: Annotated[
        str,
        typer.Option(
            help="Training configuration; gives H and the delta transform.", show_default=False
        ),
    ],
    plan: Annotated[
        Path | None, typer.Option(help="The sampling plan.", show_default=False)
    ] = None,
    subset: Annotated[
        str | None,
        typer.Option(
            help="none (all frames), episodes, episodes_valid or anchors. Default: episodes_valid"
            " with a plan, else none."
        ),
    ] = None,
    output_asset_id: Annotated[
        str | None, typer.Option(help="Name of the statistics. Default: the repo id.")
    ] = None,
    assets_dir: Annotated[Path, typer.Option(help="Folder of all statistics.")] = Path("assets"),
    as_json: JsonOption = False,
) -> None:
    """Compute statistics into ASSETS_DIR/TRAIN_CONFIG/ASSET_ID; nothing is overwritten."""
    from appliance.cli.norm_stats import compute

    compute(
        root,
        repo_id=repo_id,
        train_config=train_config,
        plan_path=plan,
        subset=subset,
        asset_id=output_asset_id or repo_id,
        assets_dir=assets_dir,
        as_json=as_json,
    )
