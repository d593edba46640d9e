"""`run`, `explain`, `stage`."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import typer

from appliance.cli.manifests import print_warnings
from appliance.cli.passphrase import find_passphrase
from appliance.cli.places import default_run_dir, user_cache_dir
from appliance.cli.progress import show_progress
from appliance.engine.host import bind_to_engine
from appliance.engine.watch import watch_claim
from appliance.manifest.difference import ABSENT
from appliance.manifest.model import EngineName, Manifest
from appliance.stages.cache import StageCache
from appliance.stages.chain import RunOptions, RunResult, choose_engine, find_engine, run_chain
from appliance.stages.decide import Action, Decision, decide_chain
from appliance.stages.execute import execute_stage
from appliance.stages.manifest import read_manifest
from appliance.stages.registry import stages_for
from appliance.stages.resolve import resolve_lock
from appliance.stages.run_folder import RunFolder

_WORDS = {
    Action.DONE: "done",
    Action.CACHED: "cached",
    Action.RUN: "run",
    Action.CONTINUE: "continue",
    Action.UNKNOWN: "depends",
}


def run_manifest(
    path: Path,
    run_dir: Path | None,
    *,
    cache: bool,
    key_dir: Path | None,
    passphrase_file: Path | None,
    with_checkpoints: bool,
    engine: EngineName | None,
    as_json: bool,
) -> None:
    """Run a manifest and say where the bundle is. Raises any ApplianceError."""
    manifest = read_manifest(path)
    print_warnings(manifest)
    options = run_options(
        manifest,
        run_dir,
        cache=cache,
        key_dir=key_dir,
        engine=engine,
        passphrase_file=passphrase_file,
        with_checkpoints=with_checkpoints,
    )
    total = len(stages_for(manifest))
    count = 0

    def announce(decision: Decision) -> None:
        nonlocal count
        count += 1
        if not as_json:
            typer.echo(f"[{count}/{total}] {describe_decision(decision)}", err=True)

    if not as_json:
        typer.echo(f"{manifest.name}: {path}", err=True)
    result = run_chain(path, options, announce)
    if as_json:
        typer.echo(json.dumps(_result_to_dict(result), indent=2, sort_keys=True))
    else:
        typer.echo(describe_result(result))
    if result.unmet:
        from appliance.errors import ExpectationError

        raise ExpectationError("\n".join(result.unmet))


def run_options(
    manifest: Manifest,
    run_dir: Path | None,
    *,
    cache: bool,
    key_dir: Path | None = None,
    engine: EngineName | None = None,
    passphrase_file: Path | None = None,
    with_checkpoints: bool = False,
) -> RunOptions:
    """Where a run of ``manifest`` works, from what was asked for and this user's places."""
    return RunOptions(
        run_dir=run_dir or default_run_dir(manifest.name),
        cache_dir=user_cache_dir() / "stages" if cache else None,
        scratch_dir=user_cache_dir() / "scratch",
        facts_dir=user_cache_dir(),
        key_dir=key_dir,
        passphrase=find_passphrase(passphrase_file),
        passphrase_file=passphrase_file,
        with_checkpoints=with_checkpoints,
        engine=engine,
    )


def explain_run(
    path: Path, run_dir: Path | None, *, cache: bool, engine: EngineName | None, as_json: bool
) -> None:
    """Print what `run` would do. Raises ManifestError, DatasetError, ImageError."""
    manifest = choose_engine(read_manifest(path), engine)
    options = run_options(manifest, run_dir, cache=cache)
    folder = RunFolder(options.run_dir.resolve())
    folder.check_no_links()
    environment = find_engine(manifest, folder, options).environment
    decisions = decide_chain(
        stages_for(manifest),
        manifest,
        resolve_lock(manifest, environment, options.secrets),
        folder=folder,
        cache=StageCache(options.cache_dir),
    )
    if as_json:
        typer.echo(json.dumps([_decision_to_dict(each) for each in decisions], indent=2))
        return
    typer.echo(f"{path} in {folder.path}")
    for decision in decisions:
        typer.echo(describe_decision(decision))
    if all(each.action is Action.DONE for each in decisions):
        typer.echo("Everything is done: `run` would only check it.")


def run_one_stage(name: str, run_dir: Path) -> None:
    """Run one stage in this process and print where its result is."""
    bind_to_engine()
    watch_claim()
    with show_progress(name) as progress:
        receipt = execute_stage(run_dir.resolve(), name, progress)
    if sys.stdout.isatty():
        typer.echo(f"{name}: content {receipt.content_digest}")


def describe_decision(decision: Decision) -> str:
    """One stage's decision as text: a line, and a line for each field that changed."""
    reason = {
        Action.DONE: "nothing changed",
        Action.CACHED: "the same result is in the cache",
        Action.RUN: "never run in this folder" if not decision.changes else "changed:",
        Action.CONTINUE: "goes on from unfinished work",
        Action.UNKNOWN: f"runs only if {' or '.join(decision.waits_for)} comes out differently",
    }[decision.action]
    if decision.damage:
        reason = f"its result was damaged: {', '.join(decision.damage)}"
    lines = [f"{decision.stage:<11} {_WORDS[decision.action]:<9} {reason}"]
    if decision.action in (Action.RUN, Action.CACHED, Action.CONTINUE):
        lines += [
            f"{'':<11} {change.path}: {_short(change.old)} -> {_short(change.new)}"
            for change in decision.changes
        ]
    return "\n".join(lines)


def describe_result(result: RunResult) -> str:
    """Where the bundle is, what it holds, how to verify it."""
    bundle = result.bundle
    head = (
        "Nothing to do: every stage and the bundle are as they were."
        if not result.ran and not bundle.written
        else "Done."
    )
    lines = [
        head,
        f"  bundle          {_from_here(bundle.path)}",
        f"  content digest  {bundle.content_digest}",
        f"  attestation     {bundle.attestation_sha256}",
        f"  signed by       {bundle.key_id}",
        *(f"  {name:<15} {text}" for name, text in bundle.summary),
        "",
        "  it holds        content/   the result: manifest, dataset figures, plan, norm stats,",
        "                             training curve and hash chain, every trial and its outcome",
        "                  observed/  receipts, versions, times, logs, a video of every episode",
        "                  VERIFY.md  how to check it with this program, and with other programs",
        f"  verify it       {_own_command()} verify {_from_here(bundle.path)}",
    ]
    return "\n".join(lines)


def _from_here(path: Path) -> str:
    """The path as a person here would write it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _own_command() -> str:
    """How this very program was called, so that what is printed can be typed."""
    if shutil.which("appliance") is not None or not sys.argv[0].endswith("appliance"):
        return "appliance"
    return _from_here(Path(sys.argv[0]).absolute())


def _short(value: Any) -> str:
    """A value on one line; a digest by its first twelve digits."""
    if value is ABSENT:
        return "absent"
    if isinstance(value, str) and re.fullmatch(r"([a-z0-9-]+:)?[0-9a-f]{64}", value):
        return value.rpartition(":")[2][:12]
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 60 else text[:57] + "..."


def _decision_to_dict(decision: Decision) -> dict[str, Any]:
    return {
        "stage": decision.stage,
        "action": decision.action.value,
        "key": decision.key,
        "waits_for": list(decision.waits_for),
        "damage": list(decision.damage),
        "changes": [
            {
                "path": change.path,
                **{
                    name: value
                    for name, value in (("old", change.old), ("new", change.new))
                    if value is not ABSENT
                },
            }
            for change in decision.changes
        ],
    }


def _result_to_dict(result: RunResult) -> dict[str, Any]:
    return {
        "run_dir": str(result.folder.path),
        "bundle": str(result.bundle.path),
        "content_digest": result.bundle.content_digest,
        "attestation_sha256": result.bundle.attestation_sha256,
        "key_id": result.bundle.key_id,
        "ran": list(result.ran),
        "reused": list(result.reused),
        "bundle_written": result.bundle.written,
        "unmet_expectations": list(result.unmet),
    }
