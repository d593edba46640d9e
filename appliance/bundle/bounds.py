"""How much of a file that nobody vouches for yet is kept and parsed: the limits, in one place.

JSON text of a few bytes becomes a value of many (``{}`` takes 64), so what is parsed is limited in
bytes and in values; both are counted before anything is parsed. A run of a thousand episodes with
three thousand files beside its results stays far below (``tests/bundle/test_memory.py``).
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

# Statements over more than 20,000 files. Nothing larger is signed either.
MAX_ATTESTATION_BYTES = 4 << 20
# One file that is read for what it says.
MAX_FACT_FILE_BYTES = 4 << 20
# Read line by line, so it costs no more than its bytes: tens of thousands of episodes.
MAX_EPISODES_BYTES = 16 << 20
# All files of one bundle together.
MAX_KEPT_BYTES = 32 << 20
# What stands around an attestation's payload: a media type, a key's name, a signature.
MAX_ENVELOPE_BYTES = 64 << 10
# In one JSON text; at most some 120 bytes each in memory.
MAX_JSON_VALUES = 300_000
# What is written again, or walked through, by functions that call themselves.
MAX_JSON_DEPTH = 100
# All JSON of one result that is compared with another: steps are most, 200,000 of them fit.
MAX_RESULT_BYTES = 96 << 20
MAX_RESULT_VALUES = 4_000_000


def count_values(data: bytes) -> int:
    """How many values and names JSON text may hold; for lines of JSON, one less for each line."""
    # Each value or name but the first follows one of these.
    return sum(map(data.count, (b",", b":", b"[", b"{")))


def parse_json(data: bytes, most_values: int | None = MAX_JSON_VALUES) -> Any:
    """The JSON value in ``data``. Raises ValueError for everything else, however it is broken.

    Text that may hold more than ``most_values`` values and names is refused before it is read (None
    bounds nothing), and so is, afterwards, what could not be written as JSON again.
    """

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    if most_values is not None and count_values(data) >= most_values:
        raise ValueError(f"it may hold more than {most_values} values")
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=refuse)
    except RecursionError as problem:
        raise ValueError("it is nested too deeply") from problem
    _check_values(value)
    return value


def _check_values(value: Any) -> None:
    """Raise ValueError for nesting, for a number and for half a character that go nowhere."""
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                below += each.keys()
                below += each.values()
            elif isinstance(each, list):
                below += each
            elif isinstance(each, float) and not math.isfinite(each):
                raise ValueError("a number is too large")
            elif isinstance(each, str):
                each.encode("utf-8")
        if not below:
            return
        level = below
    raise ValueError("it is nested too deeply")
