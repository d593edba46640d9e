"""`doctor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.options import JsonOption
from appliance.doctor.check import Purpose, Result, Status

_WORDS = {Status.OK: "ok", Status.NOTE: "note", Status.MISSING: "missing"}


def add_doctor_command(app: typer.Typer) -> None:
    """Register the command."""
    app.command("doctor")(doctor)


def doctor(
    *,
    purpose: Annotated[
        Purpose,
        typer.Option(
            "--for",
            help="What the machine is to do: verify bundles, run on the host, run in containers,"
            " use GPUs (in containers). What it needs and lacks ends the command with 31.",
        ),
    ] = Purpose.RUN,
    run_dir: Annotated[Path, typer.Option("--run-dir", help="Where runs are written.")] = Path(
        "runs"
    ),
    key_dir: Annotated[
        Path | None,
        typer.Option("--key-dir", help="Folder of the signing key.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what this machine has and lacks: one line each, with the fix."""
    from appliance.doctor.examine import examine, list_checks
    from appliance.errors import RuntimeMissingError

    results = []
    for result in examine(list_checks(run_dir=run_dir, key_dir=key_dir), purpose):
        results.append(result)
        if not as_json:
            typer.echo(_describe(result))
    fatal = [result.name for result in results if result.is_fatal]
    if as_json:
        value = {
            "for": purpose.value,
            "ready": not fatal,
            "checks": [result.to_dict() for result in results],
        }
        typer.echo(json.dumps(value, indent=2, sort_keys=True))
    if fatal:
        raise RuntimeMissingError(
            f"This machine lacks what {purpose.value} needs: {', '.join(fatal)}. The lines above"
            " say how to put it right."
        )
    if not as_json:
        typer.echo(f"Nothing that {purpose.value} needs is missing.")


def _describe(result: Result) -> str:
    finding = result.finding
    word = _WORDS[finding.status]
    if finding.status is Status.MISSING and not result.required:
        word = "absent"
    fix = f" Fix: {finding.fix}." if finding.fix else ""
    found = finding.found.rstrip(".") + ("." if fix else "")
    return f"{word:<8} {result.name:<17} {found}{fix}"
