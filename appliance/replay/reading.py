"""The JSON of a result; of a stranger's up to a limit over all its files together."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from appliance.bundle.bounds import (
    MAX_RESULT_BYTES,
    MAX_RESULT_VALUES,
    count_values,
    parse_json,
)
from appliance.errors import StorageError
from appliance.files import storage_errors


class Reader:
    """Reads files until all of them together are too much; a file counts each time it is read.

    What the user's own runs left is read whole: not ``bounded``.
    """

    def __init__(self, *, bounded: bool = True) -> None:
        self._bounded = bounded
        self._values_left, self._bytes_left = MAX_RESULT_VALUES, MAX_RESULT_BYTES

    def read_object(self, path: Path) -> dict[str, Any]:
        """The JSON object in ``path``; empty when there is none.

        Raises StorageError for damage, and when the limit is exceeded.
        """
        if not path.is_file():
            return {}
        return _parse_object(self._take(path), f"{path}:")

    def read_rows(self, path: Path) -> list[dict[str, Any]]:
        """The JSON objects in a file of one object a line; none when there is no file.

        Raises StorageError for damage, and when the limit is exceeded.
        """
        if not path.is_file():
            return []
        lines = io.BytesIO(self._take(path))
        return [_parse_object(line, f"{path}: a line is") for line in lines if line.strip()]

    def _take(self, path: Path) -> bytes:
        """The bytes of a file, as far as the limit allows."""
        with storage_errors(path, f"reading {path.name}"), path.open("rb") as stream:
            data = stream.read(self._bytes_left + 1 if self._bounded else -1)
        if not self._bounded:
            return data
        self._bytes_left -= len(data)
        self._values_left -= count_values(data)
        if self._bytes_left < 0 or self._values_left < 0:
            raise StorageError(
                f"{path}: with it the result holds more JSON than is read of one:"
                f" {MAX_RESULT_BYTES >> 20} MiB or {MAX_RESULT_VALUES:,} values, enough for 200,000"
                " training steps. Name the run folder it is from, if you have it."
            )
        return data


def _parse_object(data: bytes, subject: str) -> dict[str, Any]:
    """The JSON object in ``data``, which ``Reader`` has counted. Raises StorageError."""
    try:
        value = parse_json(data, most_values=None)
    except ValueError as error:
        raise StorageError(
            f"{subject} not valid JSON ({error}). The file is damaged or not what was expected."
        ) from error
    if not isinstance(value, dict):
        raise StorageError(f"{subject} not a JSON object. The file is damaged.")
    return value


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in one file; empty when there is none. Raises StorageError as Reader does."""
    return Reader().read_object(path)
