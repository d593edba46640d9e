"""The commands `replay` and `diff`: their flags. What they do is imported when they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.options import EngineOption, JsonOption
from appliance.cli.passphrase import PassphraseFileOption


def add_replay_commands(app: typer.Typer) -> None:
    """Add `replay` and `diff` to the program."""
    app.command()(replay)
    app.command()(diff)


def replay(
    *,
    target: Annotated[
        Path,
        typer.Argument(
            help="A golden manifest, a bundle (folder or archive), a run folder, or a folder of"
            " golden manifests.",
            show_default=False,
            metavar="TARGET",
        ),
    ],
    level: Annotated[
        str,
        typer.Option(help="How far to go: R1 to R5, or auto: as far as the budget reaches."),
    ] = "auto",
    spot_check: Annotated[
        str | None,
        typer.Option(help="K:M takes M training steps again from step K (0, or a checkpoint)."),
    ] = None,
    budget: Annotated[
        float, typer.Option(min=0, help="Minutes that auto may take for a target.")
    ] = 5.0,
    dataset_root: Annotated[
        Path | None, typer.Option(help="Where the dataset lies, if not where the manifest says.")
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="Your copy of the weights that training started from.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Your copy of the tokenizer that was used.")
    ] = None,
    norm_stats: Annotated[
        Path | None, typer.Option(help="Your copy of the statistics that were reused.")
    ] = None,
    artifacts: Annotated[
        Path | None, typer.Option(help="Run folder of the original, for its checkpoints.")
    ] = None,
    checkout: Annotated[
        Path | None,
        typer.Option(help="RoboTwin checkout to evaluate in; never taken from a bundle."),
    ] = None,
    checkout_python: Annotated[
        Path | None, typer.Option(help="The checkout's Python; never taken from a bundle.")
    ] = None,
    engine: EngineOption = None,
    work_dir: Annotated[
        Path | None, typer.Option(help="Where the replay works. Default: replays/<name>.")
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Write what is found as the golden's expectations.")
    ] = False,
    sign: Annotated[
        bool, typer.Option("--sign", help="Countersign the bundle with the verdict, beside it.")
    ] = False,
    junit: Annotated[Path | None, typer.Option(help="Write the results as JUnit XML.")] = None,
    summary: Annotated[
        Path | None, typer.Option(help="Write a Markdown summary, fit for a CI job.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the verdict (JSON) here too.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="Public key (PEM) of the bundle's signer.")
    ] = None,
    key_dir: Annotated[
        Path | None,
        typer.Option("--key-dir", help="Folder of the signing key and the trusted keys."),
    ] = None,
    passphrase_file: PassphraseFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compute again what can be, compare it with the original, and give a verdict."""
    from appliance.bundle.keys import default_key_dir
    from appliance.cli.replays import ReplayRequest, replay_target
    from appliance.replay.places import Places

    replay_target(
        ReplayRequest(
            target=target,
            level=level,
            spot=spot_check,
            budget_min=budget,
            places=Places(
                dataset_root=_absolute(dataset_root),
                init=_absolute(init),
                tokenizer=_absolute(tokenizer),
                norm_stats=_absolute(norm_stats),
                artifacts=artifacts,
                checkout=_absolute(checkout),
                checkout_python=_absolute(checkout_python),
                public_key=key,
                key_dir=key_dir or default_key_dir(),
            ),
            engine=engine,
            work_dir=work_dir,
            junit=junit,
            summary=summary,
            output=output,
            record=record,
            sign=sign,
            passphrase_file=passphrase_file,
            as_json=as_json,
        )
    )


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def diff(
    a: Annotated[
        Path, typer.Argument(help="A bundle (folder or archive) or a run folder.", metavar="A")
    ],
    b: Annotated[Path, typer.Argument(help="Another one.", metavar="B")],
    as_json: JsonOption = False,
) -> None:
    """Say where two results part: manifest field, stage, step, episode, environment."""
    from appliance.cli.differences import diff_results

    diff_results(a, b, as_json=as_json)
