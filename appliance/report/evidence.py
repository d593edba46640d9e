"""The files a report is made of, read without believing any of them.

Files are known by their bundle path (``content/train/curve.jsonl``), wherever they lie. What is
absent, too large, unreadable or of the wrong type is None or empty, never an exception: a report on
a damaged bundle must still come out, and say what it could not read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

MAX_JSON_BYTES = 32 << 20
MAX_ROWS = 1_000_000


class Evidence:
    """Files by bundle path; ``problems`` collects what could not be read, as (path, reason)."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.files = dict(sorted(files.items()))
        self.problems: dict[str, str] = {}

    def has(self, name: str) -> bool:
        """Whether there is a file of this bundle path."""
        return name in self.files

    def read_bytes(self, name: str, limit: int = MAX_JSON_BYTES) -> bytes | None:
        """The file's bytes; None when absent, longer than ``limit`` or unreadable."""
        path = self.files.get(name)
        if path is None:
            return None
        try:
            with path.open("rb") as stream:
                data = stream.read(limit + 1)
        except OSError as error:
            self.problems[name] = error.strerror or "cannot be read"
            return None
        if len(data) > limit:
            self.problems[name] = f"is larger than {limit} bytes"
            return None
        return data

    def read_text(self, name: str, limit: int = 1 << 20) -> str | None:
        """The file as UTF-8 text; None when absent or not text."""
        data = self.read_bytes(name, limit)
        if data is None:
            return None
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            self.problems[name] = "is not UTF-8 text"
            return None

    def read_mapping(self, name: str) -> Mapping[str, Any]:
        """The JSON object in the file; empty when there is none."""
        data = self.read_bytes(name)
        if data is None:
            return {}
        try:
            value = _parse(data)
        except ValueError as error:
            self.problems[name] = f"is not readable as JSON ({error})"
            return {}
        if not isinstance(value, Mapping):
            self.problems[name] = "is not a JSON object"
            return {}
        return value

    def read_rows(self, name: str) -> list[Mapping[str, Any]]:
        """The JSON objects of a file with one a line; those before the first that is damaged."""
        rows: list[Mapping[str, Any]] = []
        for number, line in enumerate((self.read_bytes(name) or b"").splitlines(), start=1):
            try:
                value = _parse(line)
            except ValueError:
                value = None
            if not isinstance(value, Mapping):
                self.problems[name] = f"line {number} is not a JSON object"
                break
            rows.append(value)
            if len(rows) == MAX_ROWS:
                break
        return rows


def as_mapping(value: object) -> Mapping[str, Any]:
    """``value`` if it is a JSON object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def as_list(value: object) -> Sequence[Any]:
    """``value`` if it is a JSON array, else an empty one."""
    return value if isinstance(value, list) else ()


def as_text(value: object) -> str | None:
    """``value`` if it is a text that is not empty."""
    return value if isinstance(value, str) and value else None


def as_number(value: object) -> float | None:
    """``value`` if it is a finite number of a size that figures have."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -1e300 < value < 1e300 and math.isfinite(value) else None


def as_count(value: object) -> int | None:
    """``value`` if it is a whole number from 0 to 2^53."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= 2**53 else None


def as_fraction(value: object) -> float | None:
    """``value`` if it is a number from 0 to 1."""
    number = as_number(value)
    return number if number is not None and 0 <= number <= 1 else None


def _parse(data: bytes) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(data.decode("utf-8"), parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
