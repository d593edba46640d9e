"""`evaluate`, `serve`, `compare`: their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.options import JsonOption, check_time_limit, check_wait
from appliance.cli.policies import (
    CheckpointOption,
    GpusOption,
    NormStatsOption,
    PolicyPlace,
    RunOption,
    StepOption,
    TokenizerOption,
)


def add_evaluation_commands(app: typer.Typer) -> None:
    """Register these commands."""
    app.command("evaluate")(evaluate)
    app.command("serve")(serve)
    app.command("compare")(compare)


def evaluate(
    *,
    manifest: Annotated[
        Path | None,
        typer.Argument(
            help="The manifest whose eval part is played. Default: the run folder's.",
            metavar="MANIFEST",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder of the results; unfinished ones go on."),
    ],
    run_dir: RunOption = None,
    checkpoint: CheckpointOption = None,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            help="Ask a server of openpi's protocol, e.g. ws://HOST:8000.",
            show_default=False,
        ),
    ] = None,
    step: StepOption = None,
    norm_stats: NormStatsOption = None,
    tokenizer: TokenizerOption = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Simulators at once. Default: runtime.cpu_threads."),
    ] = None,
    gpus: GpusOption = None,
    connect_timeout_s: Annotated[
        float,
        typer.Option(
            "--connect-timeout", callback=check_wait, help="Seconds to wait for the server."
        ),
    ] = 30.0,
    answer_timeout_s: Annotated[
        float,
        typer.Option(
            "--answer-timeout", callback=check_time_limit, help="Seconds a query may take."
        ),
    ] = 600.0,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a trained policy, or any policy server, as a manifest's eval part says.

    It is played on this machine, whatever engine the manifest names.
    """
    from appliance.cli.evaluations import ServerPlace, evaluate_policy

    place = PolicyPlace(
        run_dir=run_dir,
        checkpoint=checkpoint,
        step=step,
        norm_stats=norm_stats,
        tokenizer=tokenizer,
    )
    there = (
        None
        if server is None
        else ServerPlace(
            url=server, connect_timeout_s=connect_timeout_s, answer_timeout_s=answer_timeout_s
        )
    )
    evaluate_policy(manifest, output, place, there, workers=workers, gpus=gpus, as_json=as_json)


def serve(
    *,
    run_dir: RunOption = None,
    checkpoint: CheckpointOption = None,
    config: Annotated[
        str | None,
        typer.Option(help="The checkpoint's training configuration.", show_default=False),
    ] = None,
    step: StepOption = None,
    norm_stats: NormStatsOption = None,
    tokenizer: TokenizerOption = None,
    host: Annotated[
        str,
        typer.Option(help="Address to listen at. There is no encryption and no password."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    sampling_steps: Annotated[
        int | None,
        typer.Option(
            min=1, max=1000, help="Euler steps. Default: the manifest's.", show_default=False
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seeds the noise for clients that send none.")
    ] = 0,
    default_prompt: Annotated[
        str | None,
        typer.Option(help="The instruction for clients that send none.", show_default=False),
    ] = None,
    cpu_threads: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Threads. Default: the manifest's.", show_default=False),
    ] = None,
    gpus: GpusOption = None,
    max_message_mib: Annotated[
        int, typer.Option(min=1, max=4096, help="Largest message that is taken, in MiB.")
    ] = 64,
    as_json: JsonOption = False,
) -> None:
    """Serve a trained policy over openpi's protocol, to openpi-client and to `evaluate`."""
    from appliance.cli.serving import serve as serve_policy

    place = PolicyPlace(
        run_dir=run_dir,
        checkpoint=checkpoint,
        step=step,
        norm_stats=norm_stats,
        tokenizer=tokenizer,
    )
    serve_policy(
        place,
        config=config,
        host=host,
        port=port,
        sampling_steps=sampling_steps,
        seed=seed,
        default_prompt=default_prompt,
        cpu_threads=cpu_threads,
        gpus=gpus,
        max_message_mib=max_message_mib,
        as_json=as_json,
    )


_EVALUATION = "An evaluation: the output of `evaluate`, a run folder, a bundle or its archive."
FirstArgument = Annotated[
    Path, typer.Argument(help=_EVALUATION, metavar="FIRST", show_default=False)
]
SecondArgument = Annotated[
    Path, typer.Argument(help=_EVALUATION, metavar="SECOND", show_default=False)
]


def compare(
    first: FirstArgument,
    second: SecondArgument,
    *,
    first_label: Annotated[
        str | None,
        typer.Option("--first-label", help="Its name in the sentence.", show_default=False),
    ] = None,
    second_label: Annotated[
        str | None,
        typer.Option("--second-label", help="Its name in the sentence.", show_default=False),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            help="Test equivalence: the difference of rates that counts as none, e.g. 0.1. Declare"
            " it before you look.",
            show_default=False,
        ),
    ] = None,
    alpha: Annotated[float, typer.Option(help="Level of the tests.")] = 0.05,
    as_json: JsonOption = False,
) -> None:
    """Compare two evaluations of one task: rates, intervals, the exact test, one sentence."""
    from appliance.cli.comparisons import compare as compare_folders

    compare_folders(
        first,
        second,
        first_label=first_label,
        second_label=second_label,
        margin=margin,
        alpha=alpha,
        as_json=as_json,
    )
