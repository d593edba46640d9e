"""Receipts: what a stage was made from and what it made, by digest.

A stage folder without ``receipt.json`` is unfinished work, to be continued; with it, it is finished
and every file in it is listed. The receipt is written last, atomically.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.bundle.layout import describe_name_fault
from appliance.digest import list_files, sha256_file, sha256_json, tree_digest
from appliance.errors import StorageError
from appliance.files import read_json, storage_errors, write_json
from appliance.stages.definition import CONTENT, PARTS

RECEIPT_FILE = "receipt.json"
CHECKED_FILE = "checked.json"
RECEIPT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The record of one finished stage; ``key_parts`` hash to ``key``."""

    stage: str
    key: str
    key_parts: Mapping[str, Any]
    outputs: Mapping[str, str]
    content_digest: str
    times: Mapping[str, Any]
    host: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; ``Receipt.from_dict(receipt.to_dict()) == receipt``."""
        return {
            "version": RECEIPT_VERSION,
            "stage": self.stage,
            "key": self.key,
            "key_parts": self.key_parts,
            "outputs": dict(self.outputs),
            "content_digest": self.content_digest,
            "times": dict(self.times),
            "host": dict(self.host),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Receipt:
        """Read the JSON form. Raises StorageError when a field is missing or unknown, or an output
        lies elsewhere than in a part of the stage's folder.
        """
        try:
            if value["version"] != RECEIPT_VERSION:
                raise StorageError(f"receipt version {value['version']!r} is not known")
            for name in ("key_parts", "outputs", "times", "host"):
                if not isinstance(value[name], Mapping):
                    raise StorageError(f"not a receipt: its {name} are not named")
            for text in (value["stage"], value["key"], value["content_digest"]):
                if not isinstance(text, str):
                    raise StorageError(f"not a receipt: {text!r} is not text")
            for name in value["outputs"]:
                if describe_name_fault(name) or name.partition("/")[0] not in PARTS:
                    raise StorageError(f"output {name!r} is none of a stage")
            return cls(**{name: value[name] for name in cls.__slots__})
        except (KeyError, TypeError) as error:
            raise StorageError(f"not a receipt: {error}") from error


def stage_key(key_parts: Mapping[str, Any]) -> str:
    """The content address of a stage's result: SHA-256 of all that decides it."""
    return sha256_json(key_parts)


def digest_outputs(folder: Path) -> dict[str, str]:
    """SHA-256 of every output file of a stage, by path below ``folder``."""
    return {
        f"{part}/{name}": sha256_file(folder / part / name)
        for part in PARTS
        if (folder / part).is_dir()
        for name in list_files(folder / part)
    }


def content_digest_of(outputs: Mapping[str, str]) -> str:
    """Tree digest over the deterministic outputs only."""
    prefix = CONTENT + "/"
    return tree_digest(
        {name[len(prefix) :]: value for name, value in outputs.items() if name.startswith(prefix)}
    )


def write_receipt(folder: Path, receipt: Receipt) -> None:
    """Mark ``folder`` as finished. Raises StorageError."""
    write_json(folder / CHECKED_FILE, _file_stats(folder, receipt.outputs))
    write_json(folder / RECEIPT_FILE, receipt.to_dict())


def seal_folder(
    folder: Path,
    *,
    stage: str,
    key_parts: Mapping[str, Any],
    times: Mapping[str, Any],
    host: Mapping[str, Any],
) -> Receipt:
    """Hash what a stage wrote and mark its folder as finished. Raises StorageError."""
    outputs = digest_outputs(folder)
    receipt = Receipt(
        stage=stage,
        key=stage_key(key_parts),
        key_parts=key_parts,
        outputs=outputs,
        content_digest=content_digest_of(outputs),
        times=times,
        host=host,
    )
    write_receipt(folder, receipt)
    return receipt


def read_receipt(folder: Path) -> Receipt | None:
    """The receipt in ``folder``; None when there is none or it cannot be read."""
    path = folder / RECEIPT_FILE
    if not path.is_file():
        return None
    try:
        value = read_json(path)
        return Receipt.from_dict(value) if isinstance(value, Mapping) else None
    except StorageError:
        return None


def find_damage(folder: Path, receipt: Receipt) -> list[str]:
    """Output files that are missing or no longer what the receipt says.

    Files whose size, modification and change time are those of the last check are not read again,
    so that a run with nothing to do stays fast with large checkpoints.
    """
    checked = _read_checked(folder)
    damaged: list[str] = []
    for name, expected in receipt.outputs.items():
        path = folder / name
        try:
            stats = _stats(path)
        except OSError:
            damaged.append(f"{name} (missing)")
            continue
        if checked.get(name) != stats and sha256_file(path) != expected:
            damaged.append(f"{name} (changed)")
    if not damaged:
        current = _file_stats(folder, receipt.outputs)
        if current != checked:
            write_json(folder / CHECKED_FILE, current)
    return damaged


def _read_checked(folder: Path) -> Mapping[str, Any]:
    try:
        value = read_json(folder / CHECKED_FILE)
    except StorageError:
        return {}
    return value if isinstance(value, Mapping) else {}


def _file_stats(folder: Path, outputs: Mapping[str, str]) -> dict[str, list[int]]:
    with storage_errors(folder, "reading the sizes of its files"):
        return {name: _stats(folder / name) for name in outputs}


def _stats(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
