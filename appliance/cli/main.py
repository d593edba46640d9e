"""The console script ``appliance``: commands, and the edge where errors become exit codes.

Nothing heavy is imported for ``--help``; each command imports its room when it is called.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from appliance import __version__
from appliance.cli.bundle_commands import add_bundle_commands
from appliance.cli.dataset_commands import add_dataset_commands
from appliance.cli.doctor import add_doctor_command
from appliance.cli.evaluation_commands import add_evaluation_commands
from appliance.cli.groups import WholeHelpGroup
from appliance.cli.image_commands import image_app
from appliance.cli.norm_stats_commands import norm_stats_app
from appliance.cli.options import EngineOption, JsonOption
from appliance.cli.passphrase import PassphraseFileOption
from appliance.cli.plan_commands import plan_app
from appliance.cli.replay_commands import add_replay_commands
from appliance.cli.train_commands import add_train_command
from appliance.engine.host import INTERRUPTS
from appliance.errors import ApplianceError, InterruptedCommandError

INTERRUPTED = InterruptedCommandError.exit_code

app = typer.Typer(
    cls=WholeHelpGroup,
    name="appliance",
    help="One manifest in, one signed audit bundle out: reproducible robot-policy training.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
dataset_app = typer.Typer(
    cls=WholeHelpGroup, no_args_is_help=True, help="Record and inspect LeRobot datasets."
)
keys_app = typer.Typer(
    cls=WholeHelpGroup, no_args_is_help=True, help="The signing key and the keys you trust."
)
app.add_typer(dataset_app, name="dataset")
app.add_typer(plan_app, name="plan")
app.add_typer(norm_stats_app, name="norm-stats")
app.add_typer(keys_app, name="keys")
app.add_typer(image_app, name="image")

ManifestArgument = Annotated[
    Path, typer.Argument(help="The manifest (YAML).", show_default=False, metavar="MANIFEST")
]
RunDirOption = Annotated[
    Path | None,
    typer.Option("--run-dir", help="Where the run works. Default: runs/<manifest name>."),
]
CacheOption = Annotated[
    bool,
    typer.Option("--cache/--no-cache", help="Share finished stages between run folders."),
]
KeyDirOption = Annotated[
    Path | None,
    typer.Option("--key-dir", help="Folder of the signing key and the trusted keys."),
]


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"appliance {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")] = False,
) -> None:
    """Options of every command."""
    del version
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )


@app.command()
def validate(manifest: ManifestArgument, as_json: JsonOption = False) -> None:
    """Check a manifest against the schema and the rules; run nothing."""
    from appliance.cli.manifests import validate_manifest

    validate_manifest(manifest, as_json=as_json)


@app.command()
def lock(
    manifest: ManifestArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the lock here, not to stdout.")
    ] = None,
) -> None:
    """Resolve every name in a manifest to a digest and print the lock."""
    from appliance.cli.manifests import lock_manifest

    lock_manifest(manifest, output)


@app.command()
def explain(
    manifest: ManifestArgument,
    run_dir: RunDirOption = None,
    cache: CacheOption = True,
    engine: EngineOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what `run` would do, and which changed field makes it do so; run nothing."""
    from appliance.cli.runs import explain_run

    explain_run(manifest, run_dir, cache=cache, engine=engine, as_json=as_json)


@app.command()
def run(
    *,
    manifest: ManifestArgument,
    run_dir: RunDirOption = None,
    cache: CacheOption = True,
    key_dir: KeyDirOption = None,
    passphrase_file: PassphraseFileOption = None,
    with_checkpoints: Annotated[
        bool,
        typer.Option("--with-checkpoints", help="Put the checkpoints into the bundle too."),
    ] = False,
    engine: EngineOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a manifest to a signed audit bundle; continue what was stopped, skip what is done."""
    from appliance.cli.runs import run_manifest

    run_manifest(
        manifest,
        run_dir,
        cache=cache,
        key_dir=key_dir,
        passphrase_file=passphrase_file,
        with_checkpoints=with_checkpoints,
        engine=engine,
        as_json=as_json,
    )


@app.command()
def stage(
    name: Annotated[
        str, typer.Argument(help="dataset, plan, norm_stats, train or evaluate.", metavar="NAME")
    ],
    run_dir: Annotated[Path, typer.Option("--run-dir", help="The run folder to work in.")],
) -> None:
    """Run one stage of a run folder (what engines call)."""
    from appliance.cli.runs import run_one_stage

    run_one_stage(name, run_dir)


@app.command()
def report(
    *,
    targets: Annotated[
        list[Path],
        typer.Argument(
            help="Bundles (folders or archives) or run folders; several are compared.",
            metavar="TARGET",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The page to write. Default: NAME-report.html here."),
    ] = None,
    embed_videos: Annotated[
        bool,
        typer.Option(
            "--embed-videos", help="Put the videos into the page (up to 64 MiB), not links to them."
        ),
    ] = False,
    replay: Annotated[
        Path | None,
        typer.Option("--replay", help="A replay's verdict document, to be shown on the page."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="Public key (PEM) of the signer you trust.")
    ] = None,
    key_dir: KeyDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write one HTML page on a bundle or a run, or comparing several; it needs nothing else."""
    from appliance.cli.reports import ReportOptions, report_on

    report_on(
        targets,
        ReportOptions(
            out=out,
            key=key,
            key_dir=key_dir,
            replay=replay,
            embed_videos=embed_videos,
            as_json=as_json,
        ),
    )


add_replay_commands(app)


@dataset_app.command("record")
def dataset_record(
    *,
    task: Annotated[str, typer.Option(help="The task whose expert is recorded.")],
    root: Annotated[Path, typer.Option(help="Folder the dataset is written to; must not exist.")],
    episodes: Annotated[int, typer.Option(min=1, help="Successful demonstrations to record.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="First scene seed; counts upwards.")] = 0,
    image_size: Annotated[str, typer.Option(help="Width x height in pixels, 4:3.")] = "96x72",
    task_config: Annotated[str, typer.Option(help="RoboTwin's task configuration.")] = "demo_clean",
    repo_id: Annotated[
        str | None, typer.Option(help="Default: <task>-stand_in-<episodes>.")
    ] = None,
) -> None:
    """Play the expert and write a LeRobotDataset, in a deterministic order."""
    from appliance.cli.datasets import record

    record(
        task=task,
        root=root,
        episodes=episodes,
        seed=seed,
        image_size=image_size,
        task_config=task_config,
        repo_id=repo_id,
    )


@dataset_app.command("fingerprint")
def dataset_fingerprint(
    root: Annotated[Path, typer.Argument(help="The dataset folder.", metavar="ROOT")],
    as_json: JsonOption = False,
) -> None:
    """Print a dataset's content fingerprint, the figure a manifest pins."""
    from appliance.cli.datasets import fingerprint

    fingerprint(root, as_json=as_json)


add_dataset_commands(dataset_app)
add_bundle_commands(app, keys_app)
add_train_command(app)
add_evaluation_commands(app)
add_doctor_command(app)


@keys_app.command("show")
def keys_show(key_dir: KeyDirOption = None, as_json: JsonOption = False) -> None:
    """Show the public signing key and its id (the key is made when there is none)."""
    from appliance.cli.keys import show

    show(key_dir, as_json=as_json)


@keys_app.command("trust")
def keys_trust(
    public_key: Annotated[
        Path, typer.Argument(help="Public key (PEM) of somebody you trust.", metavar="PUBLIC_KEY")
    ],
    key_dir: KeyDirOption = None,
) -> None:
    """Trust a public key: bundles signed with it verify as of known origin."""
    from appliance.cli.keys import trust

    trust(public_key, key_dir)


@keys_app.command("untrust")
def keys_untrust(
    key_id: Annotated[
        str, typer.Argument(help="The key's id, as `keys show` prints it.", metavar="KEY_ID")
    ],
    key_dir: KeyDirOption = None,
) -> None:
    """Stop trusting a key."""
    from appliance.cli.keys import untrust

    untrust(key_id, key_dir)


def main() -> None:
    """Run the command line; every expected failure ends with its text and its own exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    how_to_go_on = "Run the same command again to go on from here."
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)
        code = app(standalone_mode=False)
    except InterruptedCommandError as error:
        code, how_to_go_on = INTERRUPTED, str(error)
    except ApplianceError as error:
        code = _fail(error)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except Exception as error:  # noqa: BLE001  (usage errors of the command-line library, defects)
        code = _fail_unexpected(error)
    if code == INTERRUPTED:  # the command-line library turns Ctrl-C into this code by itself
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        typer.echo(f"\nInterrupted. {how_to_go_on}", err=True)
    sys.exit(code if isinstance(code, int) else 0)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Stop on SIGTERM as on Ctrl-C: children first, nothing half written."""
    raise KeyboardInterrupt


def _fail(error: ApplianceError) -> int:
    typer.echo("\n".join([f"error: {error}", *getattr(error, "__notes__", ())]), err=True)
    return int(getattr(error, "code", error.exit_code))


def _fail_unexpected(error: Exception) -> int:
    """Usage errors print their own help; anything else is a defect and is reported as one."""
    from typer.exceptions import TyperException

    if isinstance(error, TyperException):
        show = getattr(error, "show", None)
        if show is None:
            typer.echo(f"error: {error.format_message()}", err=True)
        else:
            show()
        return int(error.exit_code)
    if logging.getLogger().isEnabledFor(logging.INFO):
        logging.getLogger(__name__).exception("defect")
    typer.echo(
        f"error: {type(error).__name__}: {error}\nThis is a defect of the appliance, not of your"
        " input. Run the command again with --verbose for the details and report them.",
        err=True,
    )
    return 70
