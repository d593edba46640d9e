"""Making a bundle: copy the files in, write what describes them, sign a statement over all of it.

Files are copied, not linked: a bundle must not change when a run folder does. Each is hashed while
it is copied, so that what is signed is what was written. The folder appears whole or not at all.
Equal input gives equal bytes, the signature included; times enter only where a caller gives them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance import __version__
from appliance.bundle.dsse import IN_TOTO_PAYLOAD_TYPE, sign_envelope
from appliance.bundle.instructions import write_instructions
from appliance.bundle.keys import SigningKey
from appliance.bundle.layout import (
    ATTESTATION_FILE,
    BUNDLE_FILE,
    CONTENT,
    FORMAT,
    INSTRUCTIONS_FILE,
    MAX_KEPT_FILE_BYTES,
    OBSERVED,
    PUBLIC_KEY_FILE,
    BundleContentError,
    content_digest,
    describe_name_fault,
    find_name_clashes,
    show_name,
)
from appliance.bundle.sigstore import encode_attestation
from appliance.bundle.statement import (
    Dependency,
    RunMetadata,
    build_statement,
    encode_statement,
)
from appliance.digest import CHUNK_BYTES, list_files, sha256_bytes, sha256_json
from appliance.files import atomic_folder, storage_errors, sync_folder, write_atomic, write_json

FILE_MODE = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleIdentity:
    """What names a bundle: the result (``content_digest``), every file (``statement_sha256``)."""

    path: Path
    content_digest: str
    statement_sha256: str
    key_id: str
    file_count: int


def write_bundle(
    bundle_dir: Path,
    *,
    name: str,
    content: Mapping[str, Path],
    observed: Mapping[str, Path],
    manifest: Mapping[str, Any],
    lock: Mapping[str, Any],
    key: SigningKey,
    levels: Sequence[str] = ("R0",),
    metadata: RunMetadata | None = None,
) -> BundleIdentity:
    """Write and sign the bundle folder ``bundle_dir``; a bundle that was there is replaced.

    ``content`` and ``observed`` map paths below ``content/`` and ``observed/`` to files to copy.
    ``manifest`` (normalized) and ``lock`` go into the statement; to have them as files too, give
    them in ``content``. Raises BundleContentError for a name or file that cannot go in, and
    StorageError.
    """
    sources = {f"{CONTENT}/{path}": source for path, source in content.items()}
    sources |= {f"{OBSERVED}/{path}": source for path, source in observed.items()}
    _check_sources(sources, content)
    with atomic_folder(bundle_dir, doing="writing the bundle") as folder:
        digests = {path: _copy_file(sources[path], folder / path) for path in sorted(sources)}
        identity = content_digest(digests)
        digests |= _write_descriptions(folder, name, identity, levels, key)
        payload = _encode_payload(digests, identity, manifest, lock, metadata or RunMetadata())
        attestation = encode_attestation(sign_envelope(payload, IN_TOTO_PAYLOAD_TYPE, key))
        if len(attestation) > MAX_KEPT_FILE_BYTES:
            raise BundleContentError(
                f"{name}: {len(digests)} files are too many for one bundle; the statement over them"
                f" is larger than {MAX_KEPT_FILE_BYTES >> 20} MiB. Leave some out."
            )
        write_atomic(folder / ATTESTATION_FILE, attestation)
        _sync_folders(folder)
    return BundleIdentity(
        path=bundle_dir,
        content_digest=identity,
        statement_sha256=sha256_bytes(payload),
        key_id=key.key_id,
        file_count=len(digests) + 1,
    )


def collect_files(folder: Path, under: str) -> dict[str, Path]:
    """All files below ``folder`` as paths below ``under``, for :func:`write_bundle`.

    A missing folder holds none. Raises StorageError for a link or special file in it.
    """
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


def _check_sources(sources: Mapping[str, Path], content: Mapping[str, Path]) -> None:
    if not content:
        raise BundleContentError("There is no content to put into a bundle. Run the stages first.")
    for path, source in sources.items():
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
    for first, second in find_name_clashes(sources):
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


def _encode_payload(
    digests: Mapping[str, str],
    identity: str,
    manifest: Mapping[str, Any],
    lock: Mapping[str, Any],
    metadata: RunMetadata,
) -> bytes:
    try:
        return encode_statement(
            build_statement(
                digests=digests,
                parameters={"manifest": dict(manifest)},
                dependencies=list_dependencies(lock),
                content_digest=identity,
                version=__version__,
                metadata=metadata,
            )
        )
    except ValueError as error:
        raise BundleContentError(
            f"The manifest or lock holds a value that cannot be signed ({error}). Use numbers below"
            " 2^53 and plain Unicode text."
        ) from error


def _write_descriptions(
    folder: Path, name: str, identity: str, levels: Sequence[str], key: SigningKey
) -> dict[str, str]:
    """Write bundle.json, the public key and VERIFY.md; returns their SHA-256 by path."""
    value = {"format": FORMAT, "name": name, "content_digest": identity, "levels": list(levels)}
    write_json(folder / BUNDLE_FILE, value)
    write_atomic(folder / PUBLIC_KEY_FILE, key.public_pem)
    text = write_instructions(name=name, content_digest=identity, key_id=key.key_id)
    write_atomic(folder / INSTRUCTIONS_FILE, text.encode("utf-8"))
    return {
        path: sha256_bytes((folder / path).read_bytes())
        for path in (BUNDLE_FILE, PUBLIC_KEY_FILE, INSTRUCTIONS_FILE)
    }


def _sync_folders(folder: Path) -> None:
    with storage_errors(folder, "writing the bundle"):
        for root, _, _ in os.walk(folder):
            sync_folder(Path(root))
