"""What is replayed: a golden manifest, a bundle (folder or archive), or a run folder.

Each becomes a manifest whose paths are all absolute, the reference to compare with, and what else
is at hand: the check of the bundle (R0) and the original's checkpoints. Of a bundle that is not
intact nothing is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from appliance.bundle.bounds import MAX_ATTESTATION_BYTES
from appliance.bundle.checks import read_attestation
from appliance.bundle.facts import read_manifest as read_signed_manifest
from appliance.bundle.findings import Verdict, VerifyReport
from appliance.bundle.inventory import read_regular_file
from appliance.bundle.layout import ATTESTATION_FILE
from appliance.bundle.verify import verify_bundle
from appliance.digest import sha256_file, sha256_json
from appliance.errors import ManifestError, NotABundleError
from appliance.files import storage_errors
from appliance.manifest.model import Manifest
from appliance.norm_stats.files import NORM_STATS_FILE
from appliance.replay.checkpoints import TrainedFiles, find_trained
from appliance.replay.declared import DeclaredClaim, claim_of_bundle, claim_of_manifest
from appliance.replay.places import Places, forget_checkout, place_manifest
from appliance.replay.reference import Reference, read_expectations, reference_of
from appliance.replay.results import (
    Result,
    find_run_folder,
    is_bundle,
    is_result,
    open_result,
)
from appliance.stages.bundle import identity_of
from appliance.stages.manifest import read_manifest
from appliance.stages.pins import dataset_root
from appliance.stages.run_folder import RunFolder

MANIFEST_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One thing to replay.

    ``identity`` names it (content digest of a bundle, digest of a manifest's deciding part),
    ``declared`` is the manifest's deciding part as it was written, with its own paths;
    ``report`` is the check of a bundle, None for a manifest; ``trained`` the files of the
    original's train stage, None when its checkpoints are not at hand; ``declared_claim`` what R4
    and R5 judge. ``lacks_checkout``: it was evaluated in a RoboTwin checkout, and the user named
    none. ``norm_stats_sha256`` is that of the file of statistics it reused, None where not known.
    """

    label: str
    kind: str
    manifest: Manifest
    declared: Mapping[str, Any]
    reference: Reference | None
    identity: str
    declared_claim: DeclaredClaim
    report: VerifyReport | None = None
    trained: TrainedFiles | None = None
    lacks_checkout: bool = False
    norm_stats_sha256: str | None = None

    @property
    def name(self) -> str:
        """The run's name."""
        return self.manifest.name

    @property
    def manifest_sha256(self) -> str:
        """SHA-256 of the manifest's deciding part, wherever the data lies."""
        return sha256_json(self.declared)

    @property
    def root(self) -> Path:
        """Where the dataset should lie."""
        return dataset_root(self.manifest)


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedBundle:
    """A bundle that is not what was signed: what it says of itself is not looked at."""

    label: str
    kind: str
    report: VerifyReport

    @property
    def name(self) -> str:
        """The name of its file or folder."""
        return Path(self.label).resolve().name


def list_targets(target: Path) -> list[Path]:
    """The single things to replay: ``target`` itself, or the manifests in a folder of goldens.

    Raises ManifestError for a folder without any, StorageError when it cannot be read.
    """
    if not target.is_dir() or is_result(target):
        return [target]
    with storage_errors(target, "looking for manifests"):
        found = sorted(path for path in target.iterdir() if path.suffix in MANIFEST_SUFFIXES)
    if not found:
        raise ManifestError(
            f"{target}: holds no manifest (*.yaml), no bundle and no run. Name a manifest, a bundle"
            " folder or archive, or a folder of golden manifests."
        )
    return found


@contextlib.contextmanager
def open_subject(target: Path, places: Places) -> Iterator[Subject | DamagedBundle]:
    """The subject at ``target``, for as long as it is looked at.

    Raises ManifestError, NotABundleError, StorageError, SigningKeyError.
    """
    if not is_result(target):
        yield _subject_of_manifest(target, places)
        return
    run = find_run_folder(target)
    bundle = target
    if run is not None and not is_bundle(target) and run.bundle_link.is_dir():
        bundle = run.bundle_link.resolve()
    report = _verify(bundle, places) if is_bundle(bundle) else None
    if report is not None and not report.intact:
        kind = "bundle" if bundle.is_dir() else "archive"
        yield DamagedBundle(label=str(target), kind=kind, report=report)
        return
    with open_result(bundle) as result:
        yield _subject_of_result(target, result, report, run, places)


def _verify(bundle: Path, places: Places) -> VerifyReport:
    report = verify_bundle(bundle, public_key=places.public_key, key_dir=places.key_dir)
    if report.verdict is Verdict.NOT_A_BUNDLE:
        why = next((each.message for each in report.findings), "is not one")
        raise NotABundleError(f"{bundle}: {why}. Name an audit bundle, or what it was made from.")
    return report


def _subject_of_manifest(path: Path, places: Places) -> Subject:
    manifest = read_manifest(path)
    declared = identity_of(manifest)
    trained, root = None, places.dataset_root
    if places.artifacts is not None:
        trained = find_trained(places.artifacts, None, or_present=True)
    return Subject(
        label=str(path),
        kind="manifest",
        manifest=place_manifest(
            manifest.as_dict(), path, places, root=root, base=manifest.base_dir
        ),
        declared=declared,
        reference=read_expectations(path),
        identity="sha256:" + sha256_json(declared),
        declared_claim=claim_of_manifest(manifest),
        trained=trained,
    )


def _subject_of_result(
    target: Path,
    result: Result,
    report: VerifyReport | None,
    run: RunFolder | None,
    places: Places,
) -> Subject:
    state = {} if run is None else run.read_state()
    base = Path(str(state.get("manifest_dir", Path.cwd())))
    root = places.dataset_root
    if root is None and "dataset_root" in state:
        root = Path(str(state["dataset_root"]))
    signed = _declared_manifest(result, run)
    value = signed if report is None else forget_checkout(signed, result.lock)
    reused = _reused_norm_stats(result)
    if places.norm_stats is None:
        places = replace(places, norm_stats=_own_norm_stats(result, reused))
    manifest = place_manifest(value, target, places, root=root, base=base)
    declared = result.manifest or identity_of(manifest)
    claim = claim_of_manifest(manifest)
    if report is not None:
        claim = claim_of_bundle(manifest, signed, result.root)
    has_checkout = manifest.eval.checkout is not None
    return Subject(
        label=str(target),
        kind=result.kind,
        manifest=manifest,
        declared=declared,
        reference=reference_of(result),
        identity=result.content_digest or "sha256:" + sha256_json(declared),
        declared_claim=claim,
        report=report,
        trained=_find_trained(result, run, places.artifacts),
        lacks_checkout=has_checkout and report is not None and not places.name_checkout,
        norm_stats_sha256=reused,
    )


def _reused_norm_stats(result: Result) -> str | None:
    """The digest of the statistics that were reused, from the lock; None when none were."""
    files = result.lock.get("files")
    digest = files.get("norm_stats.path") if isinstance(files, Mapping) else None
    return digest if isinstance(digest, str) else None


def _own_norm_stats(result: Result, sha256: str | None) -> Path | None:
    """The result's own copy of the statistics it reused, if it is that file byte for byte."""
    stage = result.stages.get("norm_stats")
    if stage is None or sha256 is None:
        return None
    path = stage.content / NORM_STATS_FILE
    return path if path.is_file() and sha256_file(path) == sha256 else None


def _find_trained(
    result: Result, run: RunFolder | None, artifacts: Path | None
) -> TrainedFiles | None:
    """Where the user says, else in the run folder that a bundle lies in, else in the result."""
    train = result.stages.get("train")
    receipt = None if train is None else train.receipt
    key = None if receipt is None else str(receipt.key)
    found = None
    if artifacts is not None:
        found = find_trained(artifacts, key, or_present=True)
    if found is None and run is not None:
        found = find_trained(run.path, key, or_present=False)
    if found is None and train is not None and train.artifacts is not None:
        found = TrainedFiles(content=train.content, artifacts=train.artifacts)
    return found


def _declared_manifest(result: Result, run: RunFolder | None) -> dict[str, Any]:
    """The whole manifest: the signed one of a bundle, the file of a run folder."""
    if result.kind == "run folder":
        assert run is not None, "a run folder is its own run folder"
        return read_manifest(run.manifest_path).as_dict()
    attestation = result.root / ATTESTATION_FILE
    if attestation.is_file():
        with storage_errors(attestation, "reading the attestation"):
            data = read_regular_file(attestation, MAX_ATTESTATION_BYTES)
        statement = read_attestation(data).statement
        signed = {} if statement is None else read_signed_manifest(statement.predicate)
        if signed:
            return dict(signed)
    return dict(result.manifest)
