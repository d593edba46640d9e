"""What a plan is. Letters: N anchors.

Arrays are made read-only; metadata is the content of ``plan_meta.json`` (Plan-STaR section 1.8).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from appliance.episodes import IntArray

FloatArray: TypeAlias = NDArray[np.float64]

PLAN_VERSION = "plan-star-v2"
PLAN_VERSION_1 = "plan-star-v1"
META_FILE = "plan_meta.json"
ARRAYS_FILE = "plan_arrays.npz"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """A sampling plan: N anchors with their stages and weights, and what they were made from.

    ``anchor_indices`` int64[N] are dataset rows, ascending; ``stage_ids`` int32[N]; ``weights``
    float32[N]; ``extra_arrays`` holds what else is in the file (``event_rows``, ...).
    ``computed_sha256`` is the hash of this very content, ``plan_sha256`` the recorded one.
    ``warnings`` are those of the build; they are not stored in files.
    """

    meta: Mapping[str, Any]
    anchor_indices: IntArray
    stage_ids: NDArray[np.int32]
    weights: NDArray[np.float32]
    extra_arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    computed_sha256: str = ""
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "meta", MappingProxyType(dict(self.meta)))
        object.__setattr__(self, "extra_arrays", MappingProxyType(dict(self.extra_arrays)))
        for array in self.arrays.values():
            array.flags.writeable = False

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """All arrays by name, as they are stored in ``plan_arrays.npz``."""
        return {
            "anchor_indices": self.anchor_indices,
            "stage_ids": self.stage_ids,
            "weights": self.weights,
            **self.extra_arrays,
        }

    @property
    def plan_sha256(self) -> str:
        """The recorded hash of the plan's content."""
        return str(self.meta["plan_sha256"])
