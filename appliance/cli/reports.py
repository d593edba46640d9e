"""`report`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer

from appliance.bundle import keys
from appliance.bundle.archive import is_archive, unpack_bundle
from appliance.bundle.findings import Verdict
from appliance.bundle.layout import ATTESTATION_FILE
from appliance.bundle.verify import verify_bundle
from appliance.errors import NotABundleError
from appliance.files import read_json
from appliance.report.bundle_input import read_bundle_input
from appliance.report.comparison_page import MOST_BUNDLES, write_comparison
from appliance.report.page import write_report
from appliance.report.report_input import ReportInput
from appliance.stages.run_files import is_run_folder, read_run_input
from appliance.stages.run_folder import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """What was asked for besides the targets."""

    out: Path | None
    key: Path | None
    key_dir: Path | None
    replay: Path | None
    embed_videos: bool
    as_json: bool


def report_on(targets: Sequence[Path], options: ReportOptions) -> None:
    """Write a report on one target, or a comparison of several, and say where it is.

    Raises NotABundleError, ManifestError, StorageError; exits with the check's code when a bundle
    is not intact, after the page is written.
    """
    if len(targets) > MOST_BUNDLES:
        raise typer.BadParameter(f"{len(targets)} targets; at most {MOST_BUNDLES} fit on a page.")
    if options.replay is not None and len(targets) > 1:
        raise typer.BadParameter("--replay goes with one target.")
    with tempfile.TemporaryDirectory(prefix="report-") as scratch:
        views = [
            read_target(target, Path(scratch) / str(number), options)
            for number, target in enumerate(targets)
        ]
        names = "-and-".join(_file_name(view.name) for view in views)[:100]
        path = options.out or Path(f"{names}-report.html")
        refuse_bundle_folder(path)
        if len(views) == 1:
            write_report(views[0], path)
        else:
            write_comparison(views, path)
    if options.as_json:
        value = {"report": str(path), "targets": [_to_dict(view) for view in views]}
        typer.echo(json.dumps(value, indent=2, sort_keys=True))
    else:
        for view in views:
            typer.echo(_describe_state(view))
        typer.echo(path)
    codes = [view.check.exit_code for view in views if view.check and not view.check.intact]
    if codes:
        raise typer.Exit(max(codes))


def read_target(target: Path, scratch: Path, options: ReportOptions) -> ReportInput:
    """A bundle after its check, or a run folder as far as it is.

    An archive is unpacked into ``scratch``, so its videos can only be shown when they are embedded.
    """
    if is_run_folder(target):
        folder = RunFolder(target)
        view = read_run_input(folder, embed_videos=options.embed_videos)
        finished = all(stage.state == "done" for stage in view.stages)
        if not finished or not folder.bundle_link.is_dir():
            return view
        target = folder.bundle_link
    key_dir = options.key_dir or keys.default_key_dir()
    check = verify_bundle(target, public_key=options.key, key_dir=key_dir)
    if check.verdict is Verdict.NOT_A_BUNDLE:
        raise NotABundleError(
            f"{target}: neither a bundle nor a run folder: {check.findings[0].message}. Give a"
            " bundle's folder or archive, or the folder of a run."
        )
    place, embed_videos = target, options.embed_videos
    if is_archive(target):
        place, embed_videos = scratch, True
        unpack_bundle(target, place)
    view = read_bundle_input(place, check, embed_videos=embed_videos)
    return view if options.replay is None else replace(view, replay=_read_replay(options.replay))


def _read_replay(path: Path) -> Mapping[str, Any]:
    value = read_json(path)
    return value if isinstance(value, Mapping) else {"format": "not a JSON object"}


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


def _to_dict(view: ReportInput) -> dict[str, Any]:
    return {
        "name": view.name,
        "verdict": None if view.check is None else view.check.verdict.value,
        "content_digest": view.content_digest,
        "stages": {stage.name: stage.state for stage in view.stages},
    }
