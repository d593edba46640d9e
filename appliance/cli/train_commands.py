"""`train`: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli.options import JsonOption
from appliance.cli.train_flags import takes_train_settings


def add_train_command(app: typer.Typer) -> None:
    """Register this command."""
    app.command("train")(train)


@takes_train_settings
def train(
    *,
    dataset_root: Annotated[
        Path, typer.Option("--dataset-root", help="The dataset folder.", show_default=False)
    ],
    exp_name: Annotated[
        str,
        typer.Option(
            help="Name of the run: checkpoints/CONFIG/EXP_NAME/STEP under --out-dir.",
            show_default=False,
        ),
    ],
    out_dir: Annotated[Path, typer.Option(help="Folder that receives checkpoints/.")] = Path(),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what an earlier run of this name left.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Set an earlier run of this name aside; start anew.")
    ] = False,
    repo_id: Annotated[
        str | None,
        typer.Option(help="The dataset's name. Default: its folder's.", show_default=False),
    ] = None,
    num_train_steps: Annotated[
        int | None,
        typer.Option(
            min=0, help="The budget. Default: the training configuration's.", show_default=False
        ),
    ] = None,
    sampling_plan_path: Annotated[
        Path | None,
        typer.Option(
            help="The sampling plan: its folder, plan_meta.json or plan_arrays.npz. Default: none,"
            " the baseline.",
            show_default=False,
        ),
    ] = None,
    norm_stats: Annotated[
        Path | None,
        typer.Option(
            help="The normalization statistics: norm_stats.json or its folder. Default:"
            " assets/CONFIG/ASSET_ID, where `norm-stats compute` puts them.",
            show_default=False,
        ),
    ] = None,
    asset_id: Annotated[
        str | None,
        typer.Option(
            help="Name of the statistics, also in the checkpoints. Default: the repo id.",
            show_default=False,
        ),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            help="Start from this openpi `params` folder or PaliGemma npz file. Default: random"
            " weights.",
            show_default=False,
        ),
    ] = None,
    init_sha256: Annotated[
        str | None,
        typer.Option(
            "--init-sha256",
            help="Its digest: SHA-256 of the file, or sha256-tree-v1: and the tree digest of the"
            " folder.",
            show_default=False,
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="PaliGemma's SentencePiece model, for the configurations that read it.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
    **settings: Any,
) -> None:
    """Train a policy without a manifest, as the stage `train` of a run would.

    It computes on this machine with the threads, instruction set and variables that a stage on the
    host engine gets; `run` makes a signed bundle of a training, this command none.
    """
    from appliance.cli.trainings import Target, train_policy

    train_policy(
        Target(out_dir=out_dir, exp_name=exp_name, resume=resume, overwrite=overwrite),
        settings,
        dataset_root=dataset_root,
        repo_id=repo_id,
        num_train_steps=num_train_steps,
        sampling_plan_path=sampling_plan_path,
        norm_stats=norm_stats,
        asset_id=asset_id,
        init=init,
        init_sha256=init_sha256,
        tokenizer=tokenizer,
        as_json=as_json,
    )
