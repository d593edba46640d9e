"""The end of a run: gather the stages' files, sign them, say what the bundle holds.

Not a stage: it runs in the process of `appliance run`, the only one that reads the signing key. The
bundle's folder is named by the content digest, so another result never replaces this one.
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.bundle.assemble import collect_files, write_bundle
from appliance.bundle.findings import VerifyReport
from appliance.bundle.keys import load_or_create_key
from appliance.bundle.layout import content_digest
from appliance.bundle.statement import RunMetadata
from appliance.bundle.verify import describe_claims, verify_bundle
from appliance.digest import sha256_file
from appliance.errors import BundleNotIntactError
from appliance.files import write_json
from appliance.manifest.lock import Lock
from appliance.manifest.model import Manifest
from appliance.stages.definition import CONTENT, OBSERVED
from appliance.stages.pins import checkout_without_place, without_place
from appliance.stages.receipt import RECEIPT_FILE, Receipt
from appliance.stages.run_folder import KEY_LENGTH, RunFolder, set_aside

# The levels of reproduction this version records the evidence for (README, "What can be checked").
LEVELS = ("R0", "R1", "R2", "R3")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleResult:
    """Where the bundle is and what it says; ``written`` is False when it was there already."""

    path: Path
    content_digest: str
    key_id: str
    success_rate: float | None
    summary: tuple[tuple[str, str], ...]
    written: bool


def make_bundle(
    manifest: Manifest,
    lock: Lock,
    folder: RunFolder,
    receipts: Mapping[str, Receipt],
    *,
    key_dir: Path | None,
) -> BundleResult:
    """Write and sign the bundle of finished stages, or find that it is there and intact.

    Raises SigningKeyError, StorageError, and BundleNotIntactError if what was written does not
    verify (a defect of this machine's disk or memory).
    """
    places = {name: folder.stage_dir(name, receipt.key) for name, receipt in receipts.items()}
    with tempfile.TemporaryDirectory(dir=folder.path, prefix=".bundle.", suffix=".tmp") as scratch:
        asked = Path(scratch) / "manifest.json"
        write_json(asked, identity_of(manifest))
        content = {"manifest.json": asked}
        for name, place in places.items():
            content |= collect_files(place / CONTENT, name)
        digest = content_digest(
            {f"{CONTENT}/{name}": sha256_file(path) for name, path in content.items()}
        )
        target = folder.bundles_dir / digest.rpartition(":")[2][:KEY_LENGTH]
        found = _find_intact(target, digest, key_dir)
        written = found is None or not _same_receipts(target, places)
        if written:
            set_aside(target, "replaced")
            write_bundle(
                target,
                name=manifest.name,
                content=content,
                observed=_observed_files(folder, places),
                manifest=manifest.as_dict(),
                lock=lock.to_dict(),
                key=load_or_create_key(key_dir),
                levels=LEVELS,
                metadata=_times(receipts),
            )
            found = verify_bundle(target, key_dir=key_dir)
    if found is None or not found.intact or found.key_id is None:
        raise BundleNotIntactError(
            f"{target}: the bundle that was just written does not verify. Check the disk, remove"
            " the folder and run the same command again."
        )
    folder.point_bundle_link(target)
    return BundleResult(
        path=target,
        content_digest=digest,
        key_id=found.key_id,
        success_rate=found.claims.success_rate,
        summary=tuple(describe_claims(found.claims)),
        written=written,
    )


def identity_of(manifest: Manifest) -> dict[str, Any]:
    """The manifest as far as it decides the result: not where files lie, not what is expected.

    The manifest as it was written goes into ``observed/`` and, normalized, into the statement.
    """
    value = manifest.as_dict()
    value.pop("expect", None)
    value["dataset"] = {name: item for name, item in value["dataset"].items() if name != "root"}
    for name in ("init", "tokenizer"):
        value["train"][name] = without_place(value["train"][name])
    value["eval"]["checkout"] = checkout_without_place(value["eval"]["checkout"])
    return value


def _find_intact(target: Path, digest: str, key_dir: Path | None) -> VerifyReport | None:
    """The report of the bundle at ``target`` if it is whole, of this content, and by our key."""
    if not target.is_dir():
        return None
    report = verify_bundle(target, key_dir=key_dir, expected_content_digest=digest)
    return report if report.trusted else None


def _same_receipts(target: Path, places: Mapping[str, Path]) -> bool:
    """Whether the bundle was made from these very stage results."""
    return all(
        (receipt := target / OBSERVED / "receipts" / f"{name}.json").is_file()
        and receipt.read_bytes() == (place / RECEIPT_FILE).read_bytes()
        for name, place in places.items()
    )


def _observed_files(folder: RunFolder, places: Mapping[str, Path]) -> dict[str, Path]:
    files = {"manifest.yaml": folder.manifest_path, "lock.json": folder.lock_path}
    for name, place in places.items():
        files[f"receipts/{name}.json"] = place / RECEIPT_FILE
        files |= collect_files(place / OBSERVED, name)
    return files


def _times(receipts: Mapping[str, Receipt]) -> RunMetadata:
    """When the first stage started and the last one ended, from the receipts."""
    starts = [
        datetime.datetime.fromisoformat(receipt.times["started_utc"])
        for receipt in receipts.values()
    ]
    ends = [
        start + datetime.timedelta(seconds=float(receipt.times["seconds"]))
        for start, receipt in zip(starts, receipts.values(), strict=True)
    ]
    return RunMetadata(
        invocation_id=None,
        started_on=_rfc3339(min(starts)),
        finished_on=_rfc3339(max(ends)),
    )


def _rfc3339(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
