"""The levels of reproduction (README, "What can be checked"), and how far each was shown."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """What can be reproduced; a name sorts after the names of the levels below it."""

    R0 = "R0"
    R1 = "R1"
    R2 = "R2"
    R3 = "R3"
    R4 = "R4"
    R5 = "R5"


MEANINGS = {
    Level.R0: "bundle intact and signed",
    Level.R1: "data, plan, norm stats and configuration recomputed, bit for bit",
    Level.R2: "training repeated, bit for bit",
    Level.R3: "evaluation repeated, episode by episode",
    Level.R4: "success rate of the checkpoint confirmed within the declared margin",
    Level.R5: "success rate after retraining confirmed within the declared margin",
}


class LevelStatus(StrEnum):
    """How far a level was shown by one replay."""

    SHOWN = "shown"
    PARTLY = "partly"
    CONSISTENT = "consistent"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"
    NOT_TESTED = "not tested"


STATUS_MEANINGS = {
    LevelStatus.SHOWN: "holds",
    LevelStatus.PARTLY: "holds in the part that was repeated",
    LevelStatus.CONSISTENT: "within the stated tolerances; bits are promised on one platform only",
    LevelStatus.CONTRADICTED: "does not hold",
    LevelStatus.UNDECIDED: "neither confirmed nor contradicted",
    LevelStatus.NOT_TESTED: "not tested",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelResult:
    """One level's status and the reason, a sentence without a final point.

    ``episodes_needed`` would decide an undecided one; None when unknown or too many.
    """

    status: LevelStatus
    reason: str
    episodes_needed: int | None = None
