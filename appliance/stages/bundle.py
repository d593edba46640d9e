"""The end of a run: gather the stages' files, sign them, say what the bundle holds.

Not a stage: it runs in the process of `appliance run`, the only one that reads the signing key. The
bundle's folder is named by the content digest, so another result never replaces this one.
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.bundle.assemble import BundleSources, collect_files, write_bundle
from appliance.bundle.describe import describe_claims
from appliance.bundle.findings import VerifyReport
from appliance.bundle.keys import SigningKey
from appliance.bundle.layout import content_digest
from appliance.bundle.preregistration import PREREGISTRATION_FILE
from appliance.bundle.statement import Dependency, RunMetadata
from appliance.bundle.step import Step
from appliance.bundle.verify import verify_bundle
from appliance.digest import sha256_file
from appliance.errors import BundleNotIntactError
from appliance.files import set_aside, write_json
from appliance.manifest.difference import checkout_without_place
from appliance.manifest.lock import Lock
from appliance.manifest.model import Manifest
from appliance.report.report_input import REPORT_FILE, ReportInput
from appliance.stages.decide import result_runtime
from appliance.stages.declare import DECLARATION
from appliance.stages.definition import ARTIFACTS, CONTENT, OBSERVED
from appliance.stages.pins import norm_stats_without_place, without_place
from appliance.stages.receipt import RECEIPT_FILE, Receipt
from appliance.stages.registry import stages_for
from appliance.stages.run_folder import KEY_LENGTH, RunFolder

# The levels of reproduction this version records the evidence for (README, "What can be checked").
LEVELS = ("R0", "R1", "R2", "R3")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleResult:
    """Where the bundle is and what it says; ``written`` is False when it was there already."""

    path: Path
    content_digest: str
    attestation_sha256: str
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
    signer: Callable[[], SigningKey],
    with_checkpoints: bool = False,
) -> BundleResult:
    """Write and sign the bundle of finished stages, or find that it is there and intact.

    ``signer`` is asked for the key of ``key_dir`` only when there is something to sign.
    ``with_checkpoints`` puts the stages' large files in too; a bundle that has them keeps them.
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
        observed = _observed_files(folder, places)
        digest = content_digest(
            {f"{CONTENT}/{name}": sha256_file(path) for name, path in content.items()}
        )
        target = folder.bundles_dir / digest.rpartition(":")[2][:KEY_LENGTH]
        found = _find_intact(target, digest, key_dir)
        artifacts = _artifacts(places) if with_checkpoints else {}
        complete = not artifacts or (target / ARTIFACTS).is_dir()
        written = found is None or not complete or not _same_receipts(target, places)
        if written:
            set_aside(target, "replaced")
            from appliance.report.page import write_report

            page = Path(scratch) / REPORT_FILE
            write_report(_report_input(manifest, digest, content, observed), page)
            sources = BundleSources(
                name=manifest.name,
                content=content,
                observed={**observed, REPORT_FILE: page},
                artifacts=artifacts,
                manifest=manifest.as_dict(),
                lock=lock.to_dict(),
                steps=_describe_steps(manifest, receipts, sha256_file(asked)),
                dependencies=_declarations(receipts),
                levels=LEVELS,
                metadata=_times(receipts),
            )
            write_bundle(target, sources, signer())
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
        attestation_sha256=str(found.attestation_sha256),
        key_id=found.key_id,
        success_rate=found.claims.success_rate,
        summary=tuple(describe_claims(found.claims)),
        written=written,
    )


def identity_of(manifest: Manifest) -> dict[str, Any]:
    """The manifest as far as it decides the result.

    Not where files lie, what is expected, or which engine runs the stages.

    The manifest as it was written goes into ``observed/`` and, normalized, into the statement.
    """
    value = manifest.as_dict()
    value.pop("expect", None)
    value["dataset"] = {name: item for name, item in value["dataset"].items() if name != "root"}
    value["norm_stats"] = norm_stats_without_place(value["norm_stats"])
    for name in ("init", "tokenizer"):
        value["train"][name] = without_place(value["train"][name])
    value["runtime"] = result_runtime(manifest)
    value["eval"]["checkout"] = checkout_without_place(value["eval"]["checkout"])
    return value


def _report_input(
    manifest: Manifest, digest: str, content: Mapping[str, Path], observed: Mapping[str, Path]
) -> ReportInput:
    """What the report inside the bundle is made from: the bundle's files as they will lie there."""
    files = {f"{CONTENT}/{name}": path for name, path in content.items()}
    files |= {f"{OBSERVED}/{name}": path for name, path in observed.items()}
    return ReportInput(
        files=files,
        name=manifest.name,
        manifest=manifest.as_dict(),
        content_digest=digest,
        levels=LEVELS,
        place=f"{OBSERVED}/{REPORT_FILE}",
    )


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
    files |= collect_files(folder.environment_dir, "environment")
    for name, place in places.items():
        files[f"receipts/{name}.json"] = place / RECEIPT_FILE
        files |= collect_files(place / OBSERVED, name)
    return files


def _artifacts(places: Mapping[str, Path]) -> dict[str, Path]:
    """The stages' large files, by their path below ``artifacts/`` in a bundle."""
    files: dict[str, Path] = {}
    for name, place in places.items():
        files |= collect_files(place / ARTIFACTS, name)
    return files


def _describe_steps(
    manifest: Manifest, receipts: Mapping[str, Receipt], manifest_sha256: str
) -> list[Step]:
    """The stages as a bundle records them; every one reads the normalized manifest."""
    steps: list[Step] = []
    for stage in stages_for(manifest):
        receipt = receipts[stage.name]
        products = {f"{stage.name}/{path}": sha for path, sha in receipt.outputs.items()}
        declared = f"{stage.name}/{DECLARATION}"
        inputs = {"manifest.json": manifest_sha256}
        if declared in products:
            inputs[declared] = products[declared]
        started, ended = _interval(receipt)
        steps.append(
            Step(
                name=stage.name,
                upstream=stage.upstream,
                products=products,
                inputs=inputs,
                command=("appliance", "stage", stage.name),
                started_on=_rfc3339(started),
                finished_on=_rfc3339(ended),
            )
        )
    return steps


def _declarations(receipts: Mapping[str, Receipt]) -> list[Dependency]:
    """What was signed before a stage began is something the result was made from."""
    return [
        Dependency(
            name="pre-registration",
            digest=f"sha256:{receipt.outputs[DECLARATION]}",
            annotations={"path": f"{OBSERVED}/{name}/{PREREGISTRATION_FILE}"},
        )
        for name, receipt in receipts.items()
        if DECLARATION in receipt.outputs
    ]


def _times(receipts: Mapping[str, Receipt]) -> RunMetadata:
    """When the first stage started and the last one ended, from the receipts."""
    intervals = [_interval(receipt) for receipt in receipts.values()]
    return RunMetadata(
        invocation_id=None,
        started_on=_rfc3339(min(start for start, _ in intervals)),
        finished_on=_rfc3339(max(end for _, end in intervals)),
    )


def _interval(receipt: Receipt) -> tuple[datetime.datetime, datetime.datetime]:
    """When a stage started and ended; a stage that was continued counts from its last start."""
    start = datetime.datetime.fromisoformat(receipt.times["started_utc"])
    return start, start + datetime.timedelta(seconds=float(receipt.times["seconds"]))


def _rfc3339(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
