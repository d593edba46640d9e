"""A finished (or unfinished) result, wherever it lies: run folder, bundle folder, bundle archive.

Reading only, and nothing is believed: a bundle's files are what they are, whether or not it
verifies. An archive is unpacked into a temporary folder that lives as long as the result is open.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.bundle.archive import is_archive, unpack_bundle
from appliance.bundle.layout import ATTESTATION_FILE, BUNDLE_FILE
from appliance.errors import ApplianceError, NotABundleError, StorageError
from appliance.replay.reading import Reader, read_object
from appliance.stages.bundle import identity_of
from appliance.stages.definition import ARTIFACTS, CONTENT, OBSERVED
from appliance.stages.manifest import read_manifest
from appliance.stages.receipt import Receipt, read_receipt
from appliance.stages.run_folder import RunFolder

STAGE_NAMES = ("dataset", "plan", "norm_stats", "train", "evaluate")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """The files of one finished stage; ``artifacts`` where they are kept: in every run folder."""

    content: Path
    artifacts: Path | None
    receipt: Receipt | None

    @property
    def seconds(self) -> float | None:
        """How long the stage took."""
        times = None if self.receipt is None else self.receipt.times
        value = times.get("seconds") if isinstance(times, Mapping) else None
        return float(value) if isinstance(value, int | float) else None

    @property
    def host(self) -> Mapping[str, Any]:
        """What the receipt says of the machine beside the platform; empty when it says nothing."""
        host = None if self.receipt is None else self.receipt.host
        return host if isinstance(host, Mapping) else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one run left.

    ``root`` is the folder it is read from, ``manifest`` the manifest as far as it decides the
    result (normalized; empty when it cannot be read), ``stages`` the finished stages in order,
    ``reader`` what its further files are read with.
    """

    label: str
    kind: str
    root: Path
    name: str
    manifest: Mapping[str, Any]
    lock: Mapping[str, Any]
    stages: Mapping[str, StageResult]
    content_digest: str | None
    reader: Reader = field(default_factory=Reader)


@contextlib.contextmanager
def open_result(path: Path) -> Iterator[Result]:
    """The result at ``path``: a run folder, a bundle folder or a bundle archive.

    Raises NotABundleError when it is none of them, StorageError when it cannot be read.
    """
    with open_folder(path) as (folder, is_packed):
        if (folder / BUNDLE_FILE).is_file():
            yield _read_bundle(path, folder, is_packed=is_packed)
        elif (folder / "stages").is_dir() or RunFolder(folder).manifest_path.is_file():
            yield _read_run_folder(path, folder)
        else:
            raise NotABundleError(
                f"{path}: neither a bundle nor a run folder. Name the folder that holds"
                f" {BUNDLE_FILE}, an archive of it, or the folder of a run."
            )


@contextlib.contextmanager
def open_folder(path: Path) -> Iterator[tuple[Path, bool]]:
    """The folder of ``path``, and whether it had to be unpacked to be one."""
    if is_archive(path):
        with tempfile.TemporaryDirectory(prefix="bundle-") as scratch:
            target = Path(scratch) / "bundle"
            unpack_bundle(path, target)
            yield target, True
        return
    if not path.is_dir():
        raise NotABundleError(f"{path}: there is no such folder or archive. Check the path.")
    yield path.resolve(), False


def find_run_folder(target: Path) -> RunFolder | None:
    """The run folder that ``target`` is, or that the bundle ``target`` still lies in."""
    place = target.resolve()
    for folder in (place, place.parent.parent):
        if (folder / "run.json").is_file() and (folder / "stages").is_dir():
            return RunFolder(folder)
    return None


def is_bundle(path: Path) -> bool:
    """Whether ``path`` looks like a bundle, whole or not: what a check of it is about."""
    return is_archive(path) or any(
        (path / name).is_file() for name in (BUNDLE_FILE, ATTESTATION_FILE)
    )


def is_result(path: Path) -> bool:
    """Whether ``path`` looks like a bundle or a run folder, whole or not."""
    return is_bundle(path) or (path / "stages").is_dir() or (path / "run.json").is_file()


def _read_bundle(path: Path, folder: Path, *, is_packed: bool) -> Result:
    reader = Reader()
    description = reader.read_object(folder / BUNDLE_FILE)
    digest = description.get("content_digest")
    content, observed = folder / CONTENT, folder / OBSERVED
    return Result(
        label=str(path),
        kind="archive" if is_packed else "bundle",
        root=folder,
        name=str(description.get("name", path.name)),
        manifest=reader.read_object(content / "manifest.json"),
        lock=reader.read_object(observed / "lock.json"),
        stages={
            name: StageResult(
                content=content / name,
                artifacts=_folder(folder / ARTIFACTS / name),
                receipt=_read_receipt(observed / "receipts" / f"{name}.json", reader),
            )
            for name in STAGE_NAMES
            if (content / name).is_dir()
        },
        content_digest=digest if isinstance(digest, str) else None,
        reader=reader,
    )


def _read_receipt(path: Path, reader: Reader) -> Receipt | None:
    """A bundle's receipt; None when there is none or it is none."""
    value = reader.read_object(path)
    with contextlib.suppress(StorageError):
        return Receipt.from_dict(value)
    return None


def _read_run_folder(path: Path, folder: Path) -> Result:
    run = RunFolder(folder)
    manifest: dict[str, Any] = {}
    name = path.name
    if run.manifest_path.is_file():
        with contextlib.suppress(ApplianceError):  # an older or newer format: compared without it
            read = read_manifest(run.manifest_path)
            manifest, name = identity_of(read), read.name
    return Result(
        label=str(path),
        kind="run folder",
        root=folder,
        name=name,
        manifest=manifest,
        lock=read_object(run.lock_path),
        stages=dict(_finished_stages(run)),
        content_digest=None,
        reader=Reader(bounded=False),
    )


def _finished_stages(run: RunFolder) -> Iterator[tuple[str, StageResult]]:
    places = run.stage_places()
    for name in STAGE_NAMES:
        folder = places.get(name)
        receipt = None if folder is None else read_receipt(folder)
        if folder is not None and receipt is not None:
            artifacts = _folder(folder / ARTIFACTS)
            yield (
                name,
                StageResult(content=folder / CONTENT, artifacts=artifacts, receipt=receipt),
            )


def _folder(path: Path) -> Path | None:
    return path if path.is_dir() else None
