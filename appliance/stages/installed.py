"""What is installed where a stage runs: every distribution, and the true digests of some.

For the distributions a stage's result depends on, every installed file is hashed and compared with
the distribution's own ``RECORD``. The digest of the whole, the digest of ``RECORD`` and each file
that differs from it are written down: with the wheel of that name and version anybody can see what
ran. Digests are kept in the scratch folder by size and time, so that gigabytes are read once.
"""

from __future__ import annotations

import base64
import concurrent.futures
import csv
import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance import __version__
from appliance.bundle.sbom import Component, describe_components, python_purl
from appliance.digest import sha256_bytes, sha256_file, tree_digest
from appliance.errors import StorageError
from appliance.files import read_json, write_json

ENVIRONMENT_FILE = "environment.cdx.json"
KNOWN_FILE = "installed-files-v1.json"
# Written by the installer, with another content on each machine.
UNSTABLE_NAMES = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
HASH_THREADS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledFiles:
    """The files of one distribution: their digests by path, and what ``RECORD`` has otherwise."""

    digests: Mapping[str, str]
    differing: Mapping[str, str]
    missing: tuple[str, ...]
    record_sha256: str | None


def write_environment(path: Path, packages: Iterable[str], scratch_dir: Path) -> None:
    """Write the CycloneDX document of this Python environment to ``path``.

    ``packages`` names the distributions whose files are hashed; others are listed by version.
    Raises StorageError when ``path`` cannot be written.
    """
    known = KnownDigests(scratch_dir / KNOWN_FILE)
    components = describe_environment(packages, known)
    known.save()
    value = describe_components(
        components,
        subject_name="plan-star-appliance",
        subject_version=__version__,
        serial=None,
    )
    write_json(path, value)


def describe_environment(packages: Iterable[str], known: KnownDigests) -> list[Component]:
    """Python and every distribution installed, those in ``packages`` with their files."""
    matter = {_normal(name) for name in packages}
    found: dict[str, Component] = {}
    for distribution in importlib.metadata.distributions():
        metadata = distribution.metadata
        name, version = metadata["Name"], metadata["Version"]
        if not name or _normal(name) in found:
            continue  # the first on the path is the one that is imported
        properties: dict[str, str] = {}
        differing: Mapping[str, str] | None = None
        if _normal(name) in matter:
            files = examine_files(distribution, known)
            differing = files.differing
            properties = _describe_files(files)
        found[_normal(name)] = Component(
            name=name,
            version=version,
            purl=python_purl(name, version),
            sha256s=differing,
            properties=properties,
        )
    python = Component(
        name=platform.python_implementation(),
        version=platform.python_version(),
        kind="application",
        properties={"compiler": platform.python_compiler(), "platform": sys.platform},
    )
    return [python, *(found[name] for name in sorted(found))]


def examine_files(
    distribution: importlib.metadata.Distribution, known: KnownDigests
) -> InstalledFiles:
    """Hash the installed files of a distribution; scripts and compiled Python are left out."""
    record = distribution.read_text("RECORD")
    promised = _read_record(record or "")
    root = str(distribution.locate_file(""))
    paths = {name: os.path.join(root, name) for name in promised if _is_fixed(name)}  # noqa: PTH118
    present = {name: path for name, path in paths.items() if os.path.isfile(path)}  # noqa: PTH113
    digests = known.sha256s(present)
    return InstalledFiles(
        digests=digests,
        differing={
            name: digest for name, digest in digests.items() if promised[name] not in (None, digest)
        },
        missing=tuple(sorted(set(paths) - set(present))),
        record_sha256=None if record is None else sha256_bytes(record.encode("utf-8")),
    )


class KnownDigests:
    """Digests by path, size, time of change and inode, kept in a file between processes.

    A file that cannot be read or written is no error: digests are then computed.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, list[Any]] = {}
        self._new: dict[str, list[Any]] = {}
        if path is not None and path.is_file():
            try:
                value = read_json(path)
            except StorageError:
                value = None
            self._known = value if isinstance(value, dict) else {}

    def sha256s(self, paths: Mapping[str, str]) -> dict[str, str]:
        """SHA-256 of the files in ``paths`` by the same names. Raises StorageError."""
        found: dict[str, str] = {}
        unknown: dict[str, list[Any]] = {}
        for name, path in paths.items():
            status = os.stat(path)  # noqa: PTH116  (tens of thousands of files: no Path objects)
            stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
            entry = self._known.get(path)
            if isinstance(entry, list) and len(entry) == 2 and entry[0] == stamp:
                found[name] = str(entry[1])
            else:
                unknown[name] = stamp
        with concurrent.futures.ThreadPoolExecutor(HASH_THREADS) as pool:
            digests = pool.map(lambda name: sha256_file(Path(paths[name])), unknown)
            for (name, stamp), digest in zip(unknown.items(), digests, strict=True):
                found[name] = digest
                self._new[paths[name]] = [stamp, digest]
        return found

    def save(self) -> None:
        """Keep what is known for the next process."""
        if self._path is None or not self._new:
            return
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({**self._known, **self._new}), encoding="utf-8")
            temporary.replace(self._path)
        except OSError:
            temporary.unlink(missing_ok=True)


def _describe_files(files: InstalledFiles) -> dict[str, str]:
    properties = {
        "installed-files": str(len(files.digests)),
        "installed-files-differing-from-record": str(len(files.differing)),
        "installed-files-missing": str(len(files.missing)),
        "installed-files-digest": tree_digest(files.digests),
    }
    if files.record_sha256 is not None:
        properties["record-sha256"] = files.record_sha256
    return properties


def _read_record(text: str) -> dict[str, str | None]:
    """The hexadecimal SHA-256 a ``RECORD`` promises for each path; None where it promises none."""
    promised: dict[str, str | None] = {}
    for row in csv.reader(text.splitlines()):
        if len(row) < 2:
            continue
        algorithm, _, value = row[1].partition("=")
        promised[row[0]] = None
        if algorithm == "sha256":
            padded = value + "=" * (-len(value) % 4)
            promised[row[0]] = base64.urlsafe_b64decode(padded).hex()
    return promised


def _is_fixed(name: str) -> bool:
    """Whether a path of ``RECORD`` is the same in every installation: no script, no ``.pyc``."""
    return not (
        name.startswith("../") or name.endswith(".pyc") or name.rpartition("/")[2] in UNSTABLE_NAMES
    )


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
