"""`verify`."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from appliance.bundle import keys
from appliance.bundle.describe import format_report, report_to_dict
from appliance.bundle.verify import verify_bundle


def verify_bundle_folder(
    bundle: Path, key: Path | None, key_dir: Path | None, *, as_json: bool
) -> None:
    """Verify and print the report; the exit code is the report's."""
    report = verify_bundle(bundle, public_key=key, key_dir=key_dir or keys.default_key_dir())
    if as_json:
        typer.echo(json.dumps(report_to_dict(report), indent=2, sort_keys=True))
    else:
        typer.echo(format_report(report))
    if report.exit_code:
        raise typer.Exit(report.exit_code)
