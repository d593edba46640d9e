"""Making a bundle: copy the files in, write what describes them, sign a statement over all of it.

Files are copied, not linked: a bundle must not change when a run folder does. Each is hashed while
it is copied, so that what is signed is what was written. The folder appears whole or not at all.
Equal input gives equal bytes, the signature included; times enter only where a caller gives them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance import __version__
from appliance.bundle.bounds import MAX_ATTESTATION_BYTES
from appliance.bundle.dsse import IN_TOTO_PAYLOAD_TYPE, sign_envelope
from appliance.bundle.in_toto import build_in_toto_files
from appliance.bundle.instructions import write_instructions
from appliance.bundle.keys import SigningKey
from appliance.bundle.layout import (
    ARTIFACTS,
    ATTESTATION_FILE,
    BUNDLE_FILE,
    CONTENT,
    CRATE_FILE,
    FILE_MODE,
    FOLDER_MODE,
    FORMAT,
    IN_TOTO,
    INSTRUCTIONS_FILE,
    MODEL_SIGNATURE_FILE,
    OBSERVED,
    PUBLIC_KEY_FILE,
    SBOM_SUFFIX,
    BundleContentError,
    content_digest,
    describe_name_fault,
    find_name_clashes,
    show_name,
)
from appliance.bundle.model_signature import sign_model
from appliance.bundle.ro_crate import WORKFLOW_FILE, build_crate
from appliance.bundle.sigstore import encode_attestation
from appliance.bundle.statement import (
    Dependency,
    RunMetadata,
    build_statement,
    encode_statement,
)
from appliance.bundle.step import Step
from appliance.digest import CHUNK_BYTES, list_files, sha256_bytes, sha256_json
from appliance.errors import StorageError
from appliance.files import atomic_folder, finish_folders, storage_errors, write_atomic

# What the crate calls the day of a run that says nothing of its times.
UNDATED = "1970-01-01"


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleIdentity:
    """What names a bundle: the result (``content_digest``), every file (``attestation_sha256``)."""

    path: Path
    content_digest: str
    attestation_sha256: str
    key_id: str
    file_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSources:
    """What a bundle is made from.

    ``content``, ``observed`` and ``artifacts`` map paths below the folders of these names to files
    to copy. ``manifest`` (normalized) and ``lock`` go into the statement; to have them as files
    too, give them in ``content``. ``steps`` are the run's steps in order; without them there are no
    in-toto links and no RO-Crate. ``dependencies`` are inputs besides those the lock names.
    """

    name: str
    content: Mapping[str, Path]
    observed: Mapping[str, Path]
    manifest: Mapping[str, Any]
    lock: Mapping[str, Any]
    artifacts: Mapping[str, Path] = field(default_factory=dict)
    steps: Sequence[Step] = ()
    dependencies: Sequence[Dependency] = ()
    levels: Sequence[str] = ("R0",)
    metadata: RunMetadata = field(default_factory=RunMetadata)

    def files(self) -> dict[str, Path]:
        """Every file to copy by its path in the bundle."""
        parts = {CONTENT: self.content, OBSERVED: self.observed, ARTIFACTS: self.artifacts}
        return {
            f"{part}/{path}": source
            for part, files in parts.items()
            for path, source in files.items()
        }


def write_bundle(bundle_dir: Path, sources: BundleSources, key: SigningKey) -> BundleIdentity:
    """Write and sign the bundle folder ``bundle_dir``; a bundle that was there is replaced.

    Raises BundleContentError for a name or file that cannot go in, and StorageError.
    """
    files = sources.files()
    _check_sources(files, sources)
    with atomic_folder(bundle_dir, doing="writing the bundle") as folder:
        digests = {path: _copy_file(files[path], folder / path) for path in sorted(files)}
        identity = content_digest(digests)
        digests |= _write_all(folder, _describe(sources, identity, key))
        digests |= _write_all(folder, _attest_steps(sources, digests, identity, key))
        ignored = (ATTESTATION_FILE, MODEL_SIGNATURE_FILE)
        signature = sign_model(digests, ignored, sources.name, key)
        digests |= _write_all(folder, {MODEL_SIGNATURE_FILE: signature})
        payload = _encode_payload(digests, identity, sources)
        attestation = encode_attestation(sign_envelope(payload, IN_TOTO_PAYLOAD_TYPE, key))
        if len(attestation) > MAX_ATTESTATION_BYTES:
            raise BundleContentError(
                f"{sources.name}: {len(digests)} files are too many for one bundle; the statement"
                f" over them is larger than {MAX_ATTESTATION_BYTES >> 20} MiB. Leave some out."
            )
        _write_all(folder, {ATTESTATION_FILE: attestation})
        with storage_errors(bundle_dir, "writing the bundle"):
            finish_folders(folder, FOLDER_MODE)
    return BundleIdentity(
        path=bundle_dir,
        content_digest=identity,
        attestation_sha256=sha256_bytes(attestation),
        key_id=key.key_id,
        file_count=len(digests) + 1,
    )


def collect_files(folder: Path, under: str) -> dict[str, Path]:
    """All files below ``folder`` as paths below ``under``, for :func:`write_bundle`.

    A missing folder holds none. Raises StorageError for a link or special file in it, and when it
    is a link itself.
    """
    if folder.is_symlink():
        raise StorageError(f"{folder}: a link. Replace it by the folder itself.")
    if not folder.exists():
        return {}
    return {f"{under}/{name}": folder / name for name in list_files(folder)}


def list_dependencies(lock: Mapping[str, Any]) -> list[Dependency]:
    """What a lock resolved, as SLSA dependencies: the lock, the dataset, files, every package.

    A package that is not installed is left out; what a lock does not hold is not listed.
    """
    found = [Dependency(name="lock", digest=f"sha256:{sha256_json(lock)}")]
    dataset = lock.get("dataset")
    if isinstance(dataset, Mapping):
        facts = {
            key: dataset[key] for key in ("repo_id", "num_episodes", "num_frames") if key in dataset
        }
        found.extend(
            Dependency(name=f"dataset {figure}", digest=str(dataset[figure]), annotations=facts)
            for figure in ("fingerprint", "media")
            if dataset.get(figure)
        )
    files = lock.get("files")
    if isinstance(files, Mapping):
        found.extend(
            Dependency(name=f"file {key}", digest=with_algorithm(str(files[key])))
            for key in sorted(files)
        )
    packages = lock.get("packages")
    if isinstance(packages, Mapping):
        found.extend(
            Dependency(name=str(package), uri=f"pkg:pypi/{package}@{packages[package]}")
            for package in sorted(packages)
            if packages[package]
        )
    sources = lock.get("sources")
    if isinstance(sources, Mapping):
        found.extend(
            Dependency(name=f"appliance {room}", digest=str(sources[room]))
            for room in sorted(sources)
        )
    return found


def with_algorithm(digest: str) -> str:
    """A plain hexadecimal SHA-256 with its algorithm before it; others as they are."""
    return digest if ":" in digest else f"sha256:{digest}"


def _check_sources(files: Mapping[str, Path], sources: BundleSources) -> None:
    if not sources.content:
        raise BundleContentError("There is no content to put into a bundle. Run the stages first.")
    if sources.steps and WORKFLOW_FILE not in files:
        raise BundleContentError(
            f"{sources.name}: a bundle with steps needs the manifest as {WORKFLOW_FILE}."
        )
    for path, source in files.items():
        fault = describe_name_fault(path)
        if fault:
            raise BundleContentError(
                f"{source}: cannot go into the bundle as {show_name(path)}: the name {fault}."
                " Rename it."
            )
        if source.is_symlink() or not source.is_file():
            raise BundleContentError(
                f"{source}: is not a regular file, so it cannot go into the bundle. Put the file"
                " itself there."
            )
    for first, second in find_name_clashes(files):
        raise BundleContentError(
            f"{first} and {second}: some file systems cannot keep these names apart. Rename one."
        )


def _copy_file(source: Path, target: Path) -> str:
    """Copy the bytes (not mode or times) to disk; returns their SHA-256."""
    hasher = hashlib.sha256()
    with storage_errors(target, f"copying {source} into the bundle"):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        with source.open("rb") as reader, os.fdopen(handle, "wb") as writer:
            os.fchmod(writer.fileno(), FILE_MODE)
            while piece := reader.read(CHUNK_BYTES):
                hasher.update(piece)
                writer.write(piece)
            writer.flush()
            os.fsync(writer.fileno())
    return hasher.hexdigest()


def _encode_payload(digests: Mapping[str, str], identity: str, sources: BundleSources) -> bytes:
    try:
        return encode_statement(
            build_statement(
                digests=digests,
                parameters={"manifest": dict(sources.manifest)},
                dependencies=[*list_dependencies(sources.lock), *sources.dependencies],
                content_digest=identity,
                version=__version__,
                metadata=sources.metadata,
            )
        )
    except ValueError as error:
        raise BundleContentError(
            f"The manifest or lock holds a value that cannot be signed ({error}). Use numbers below"
            " 2^53 and plain Unicode text."
        ) from error


def _describe(sources: BundleSources, identity: str, key: SigningKey) -> dict[str, bytes]:
    """bundle.json, the public key and VERIFY.md."""
    value = {
        "format": FORMAT,
        "name": sources.name,
        "content_digest": identity,
        "levels": list(sources.levels),
    }
    text = write_instructions(
        name=sources.name,
        content_digest=identity,
        key_id=key.key_id,
        boms=sorted(path for path in sources.files() if path.endswith(SBOM_SUFFIX)),
        has_steps=bool(sources.steps),
    )
    return {
        BUNDLE_FILE: _encode_json(value),
        PUBLIC_KEY_FILE: key.public_pem,
        INSTRUCTIONS_FILE: text.encode("utf-8"),
    }


def _attest_steps(
    sources: BundleSources, digests: Mapping[str, str], identity: str, key: SigningKey
) -> dict[str, bytes]:
    """The in-toto layout and links, and the RO-Crate's metadata over all that is there by now."""
    if not sources.steps:
        return {}
    prefix = CONTENT + "/"
    content = {
        name.removeprefix(prefix): digest
        for name, digest in digests.items()
        if name.startswith(prefix)
    }
    links = build_in_toto_files(sources.steps, content, key)
    files = {f"{IN_TOTO}/{name}": data for name, data in links.items()}
    times = [step.finished_on for step in sources.steps if step.finished_on]
    crate = build_crate(
        name=sources.name,
        content_digest=identity,
        digests={**digests, **{name: sha256_bytes(data) for name, data in files.items()}},
        unsigned=(ATTESTATION_FILE, MODEL_SIGNATURE_FILE),
        steps=sources.steps,
        version=__version__,
        published_on=max(times, default=UNDATED),
    )
    return {**files, CRATE_FILE: _encode_json(crate)}


def _encode_json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, indent=2).encode("ascii") + b"\n"


def _write_all(folder: Path, files: Mapping[str, bytes]) -> dict[str, str]:
    """Write files into the bundle; returns their SHA-256 by path."""
    for path, data in files.items():
        write_atomic(folder / path, data, mode=FILE_MODE)
    return {path: sha256_bytes(data) for path, data in files.items()}
