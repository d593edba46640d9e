"""`report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from appliance.bundle import keys
from appliance.bundle.findings import Verdict, VerifyReport
from appliance.bundle.layout import ATTESTATION_FILE, BUNDLE_FILE
from appliance.bundle.verify import verify_bundle
from appliance.errors import NotABundleError
from appliance.report.bundle_input import read_bundle_input
from appliance.report.page import write_report
from appliance.report.report_input import ReportInput
from appliance.stages.run_files import is_run_folder, read_run_input
from appliance.stages.run_folder import RunFolder


def report_on(
    target: Path,
    out: Path | None,
    *,
    key: Path | None,
    key_dir: Path | None,
    embed_videos: bool,
    as_json: bool,
) -> None:
    """Write a report on one bundle or run folder and say where it is.

    Raises NotABundleError, ManifestError, StorageError; exits with the check's code when the bundle
    is not intact, after the page is written.
    """
    view = read_target(target, key=key, key_dir=key_dir, embed_videos=embed_videos)
    path = out or Path(f"{_file_name(view.name)}-report.html")
    refuse_bundle_folder(path)
    write_report(view, path)
    if as_json:
        typer.echo(json.dumps(_to_dict(path, view), indent=2, sort_keys=True))
    else:
        typer.echo(f"{_describe_state(view)}\n{path}")
    if view.check is not None and not view.check.intact:
        raise typer.Exit(view.check.exit_code)


def read_target(
    target: Path, *, key: Path | None, key_dir: Path | None, embed_videos: bool
) -> ReportInput:
    """A bundle folder after its check, or a run folder as far as it is."""
    if is_run_folder(target):
        folder = RunFolder(target)
        view = read_run_input(folder, embed_videos=embed_videos)
        finished = all(stage.state == "done" for stage in view.stages)
        if not finished or not folder.bundle_link.is_dir():
            return view
        target = folder.bundle_link
    if not any((target / name).is_file() for name in (ATTESTATION_FILE, BUNDLE_FILE)):
        what = "an archive: unpack it first, and give the" if target.is_file() else "neither a"
        other = "" if target.is_file() else " nor a run folder: give one of them"
        raise NotABundleError(f"{target}: {what} bundle folder{other}.")
    check = verify_bundle(target, public_key=key, key_dir=key_dir or keys.default_key_dir())
    return read_bundle_input(target, check, embed_videos=embed_videos)


def refuse_bundle_folder(path: Path) -> None:
    """Refuse to write into a bundle: one more file and it would not be what was signed."""
    for folder in path.resolve().parents:
        if (folder / ATTESTATION_FILE).is_file():
            raise typer.BadParameter(
                f"{path} lies in the bundle {folder}, which would not be intact any more. Choose a"
                " place outside with --out."
            )


def _file_name(name: str | None) -> str:
    """A file name from a bundle's name, which may be anything."""
    allowed = (letter.isascii() and letter.isalnum() for letter in name or "")
    pairs = zip(name or "", allowed, strict=True)
    kept = "".join(letter for letter, fits in pairs if fits or letter in "._-")
    return kept.strip(".")[:80] or "bundle"


def _describe_state(view: ReportInput) -> str:
    if view.check is not None:
        return f"{view.name}: {view.check.verdict.value}"
    open_stages = [stage.name for stage in view.stages if stage.state != "done"]
    return f"{view.name}: not finished ({', '.join(open_stages) or 'no bundle yet'})"


def _to_dict(path: Path, view: ReportInput) -> dict[str, Any]:
    check: VerifyReport | None = view.check
    return {
        "report": str(path),
        "name": view.name,
        "verdict": None if check is None else Verdict(check.verdict).value,
        "content_digest": view.content_digest,
        "stages": {stage.name: stage.state for stage in view.stages},
    }
