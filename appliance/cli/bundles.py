"""`verify`, `countersign`, `bundle pack`, `bundle unpack`."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from appliance import __version__
from appliance.bundle import keys
from appliance.bundle.archive import is_archive, pack_bundle, unpack_bundle
from appliance.bundle.describe import format_report, report_to_dict
from appliance.bundle.findings import Verdict, VerifyReport
from appliance.bundle.summary import Result, sign_summary, summary_path
from appliance.bundle.verify import Expected, verify_bundle
from appliance.cli.passphrase import find_passphrase
from appliance.errors import (
    BundleNotIntactError,
    BundleUntrustedError,
    NotABundleError,
    StorageError,
)
from appliance.files import write_atomic

ARCHIVE_SUFFIX = ".tar.gz"


def verify_bundle_folder(
    bundle: Path,
    *,
    key: Path | None,
    key_dir: Path | None,
    trust_dir: Path | None,
    expected: Expected,
    countersignatures: Sequence[Path],
    as_json: bool,
) -> None:
    """Verify and print the report; the exit code is the report's."""
    report = verify_bundle(
        bundle,
        public_key=key,
        key_dir=key_dir or keys.default_key_dir(),
        trust_dir=trust_dir,
        expected=expected,
        countersignatures=countersignatures,
    )
    if as_json:
        typer.echo(json.dumps(report_to_dict(report), indent=2, sort_keys=True))
    else:
        typer.echo(format_report(report))
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def pack(bundle: Path, output: Path | None) -> None:
    """Pack a bundle folder and print the archive's place and digest."""
    if not bundle.is_dir():
        raise NotABundleError(f"{bundle}: not a bundle's folder, so it cannot be packed.")
    _refuse_to_pack(verify_bundle(bundle, key_dir=keys.default_key_dir()))
    folder = bundle.resolve()
    target = output or folder.with_name(folder.name + ARCHIVE_SUFFIX)
    _refuse_existing(target)
    typer.echo(f"{pack_bundle(folder, target)}  {target}")


def unpack(archive: Path, output: Path | None) -> None:
    """Unpack an archive into a new folder; nothing is written outside it."""
    if not is_archive(archive):
        raise NotABundleError(f"{archive}: not the archive of a bundle ({ARCHIVE_SUFFIX}).")
    target = output or archive.with_name(archive.name.removesuffix(ARCHIVE_SUFFIX))
    if target == archive:
        target = archive.with_name(archive.name + ".unpacked")
    _refuse_existing(target)
    unpack_bundle(archive, target)
    typer.echo(f"Unpacked to {target}. Verify it: appliance verify {target}")


def countersign(
    bundle: Path,
    *,
    key: Path | None,
    key_dir: Path | None,
    passphrase_file: Path | None,
    replay: Path | None,
    output: Path | None,
) -> None:
    """Verify a bundle, sign what was found, and write that beside it.

    Only an intact bundle of a trusted signer is signed for. With a replay's verdict, which must be
    REPRODUCED or NOT REPRODUCED, the result and the levels are the replay's; without, the level is
    R0.
    """
    folder = key_dir or keys.default_key_dir()
    report = verify_bundle(bundle, public_key=key, key_dir=folder)
    if report.verdict is not Verdict.TRUSTED:
        typer.echo(format_report(report), err=True)
        raise _ERRORS[report.verdict](f"{bundle}: not countersigned, because it is not trusted.")
    verdict = None if replay is None else _read_replay(replay, report)
    result, levels = _result_of(verdict, str(replay))
    signer = keys.load_or_create_key(folder, passphrase=find_passphrase(passphrase_file))
    data = sign_summary(
        attestation_sha256=str(report.attestation_sha256),
        content_digest=str(report.content_digest),
        result=result,
        levels=levels,
        verified_on=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        version=__version__,
        key=signer,
        replay=verdict,
    )
    target = output or summary_path(bundle, signer.key_id)
    write_atomic(target, data, doing="writing the countersignature")
    typer.echo(f"{result} for {', '.join(levels) or 'no level'}, signed by {signer.key_id}")
    typer.echo(f"Give this file to whoever has the bundle: {target}")


_ERRORS = {
    Verdict.UNKNOWN_ORIGIN: BundleUntrustedError,
    Verdict.NOT_INTACT: BundleNotIntactError,
    Verdict.NOT_A_BUNDLE: NotABundleError,
}


def _refuse_to_pack(report: VerifyReport) -> None:
    """What is not intact would travel as if it were."""
    if not report.intact:
        typer.echo(format_report(report), err=True)
        raise _ERRORS[report.verdict](f"{report.path}: not packed, because it is not intact.")


def _refuse_existing(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise StorageError(f"{target}: exists and is not replaced. Choose another with --output.")


def _read_replay(path: Path, report: VerifyReport) -> Mapping[str, Any]:
    """A replay's verdict as `replay --output` writes it, about this very bundle's content."""
    from appliance.replay.document import read_verdict

    value = read_verdict(path)
    if value["content_digest"] != report.content_digest:
        raise StorageError(
            f"{path}: the verdict is about {value['content_digest'] or value['subject']['kind']},"
            f" but this bundle is {report.content_digest}. Replay this one."
        )
    return value


def _result_of(verdict: Mapping[str, Any] | None, label: str) -> tuple[Result, list[str]]:
    """As `replay --sign` has it; that the bundle is intact (R0) was checked here."""
    if verdict is None:
        return "PASSED", ["R0"]
    from appliance.replay.countersign import summarize_verdict

    result, levels = summarize_verdict(verdict, label)
    return result, sorted({"R0", *levels}) if result == "PASSED" else []
