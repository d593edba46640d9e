"""How much of a file that nobody vouches for yet is kept and parsed: the limits, in one place.

JSON text of a few bytes becomes a value of many (``{}`` takes 64), so what is parsed is limited in
bytes and in values; both are counted before anything is parsed. A run of a thousand episodes with
three thousand files beside its results stays far below (``tests/bundle/test_memory.py``).
"""

from __future__ import annotations

import json
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


def parse_json(data: bytes) -> Any:
    """The JSON value in ``data``. Raises ValueError for everything else, however it is broken.

    Text that may hold more than ``MAX_JSON_VALUES`` values and names is refused before it is read.
    """

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    # Each value or name but the first follows one of these.
    if sum(map(data.count, (b",", b":", b"[", b"{"))) >= MAX_JSON_VALUES:
        raise ValueError(f"it may hold more than {MAX_JSON_VALUES} values")
    try:
        return json.loads(data.decode("utf-8"), parse_constant=refuse)
    except RecursionError as problem:
        raise ValueError("it is nested too deeply") from problem
