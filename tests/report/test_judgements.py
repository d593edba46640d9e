"""What others judged stands on the page, and only where it is about this bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from appliance.bundle.findings import Claims, Countersignature, Verdict, VerifyReport
from appliance.report.page import render_report
from tests.report.markup import parse
from tests.report.sample_run import make_view

Files = dict[str, Path]
DIGEST = "sha256-tree-v1:" + "cd" * 32
REPLAY: dict[str, Any] = {
    "format": "plan-star-replay-verdict-v1",
    "content_digest": DIGEST,
    "verdict": "INCONCLUSIVE",
    "reason": "R4 is undecided: too few episodes",
    "episodes_needed": 131,
    "levels": {
        "R1": {"status": "shown", "reason": "12 figures equal", "meaning": "plan identical"},
        "R2": {"status": "contradicted", "reason": "step 3", "meaning": "training identical"},
    },
    "stages": [
        {
            "stage": "train",
            "equal": 10,
            "within_tolerance": 0,
            "different": 1,
            "not_comparable": 0,
            "first_difference": {"path": "steps.3.loss_bits", "expected": "aa", "found": "bb"},
        }
    ],
}


def words(files: Files, **changes: Any) -> str:
    return parse(render_report(make_view(files, **changes), Path("/x"))).words


def check(*countersignatures: Countersignature) -> VerifyReport:
    return VerifyReport(
        path=Path("b"),
        verdict=Verdict.TRUSTED,
        findings=(),
        content_digest=DIGEST,
        key_id="ab" * 32,
        claims=Claims(),
        countersignatures=countersignatures,
    )


def sign(*, trusted: bool) -> Countersignature:
    return Countersignature(
        path=Path("b.vsa.json"),
        key_id="ef" * 32,
        trusted=trusted,
        result="PASSED",
        levels=("R1",),
        verified_on="2026-01-02T03:04:05Z",
        replay=REPLAY,
    )


def test_a_replay_is_shown_with_its_levels_and_its_first_difference(files: Files) -> None:
    text = words(files, replay=REPLAY)
    assert "? Replay: INCONCLUSIVE." in text
    assert "R4 is undecided: too few episodes. 131 episodes would decide." in text
    assert "R1 plan identical ✔ shown 12 figures equal" in text
    assert "R2 training identical ✘ contradicted step 3" in text
    assert "train 10 0 1 0 steps.3.loss_bits aa bb" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"content_digest": "sha256-tree-v1:" + "00" * 32}, "A replay of something else"),
        ({"format": "something"}, "Not a replay's verdict"),
    ],
)
def test_a_replay_of_something_else_is_not_shown(
    files: Files, change: dict[str, str], said: str
) -> None:
    text = words(files, replay={**REPLAY, **change})
    assert said in text
    assert "Replay: INCONCLUSIVE" not in text


@pytest.mark.parametrize("spoiled", [{"levels": 7}, {"stages": "x"}, {"levels": {"R1": None}}])
def test_a_damaged_replay_breaks_nothing(files: Files, spoiled: dict[str, Any]) -> None:
    assert "Replay: INCONCLUSIVE" in words(files, replay={**REPLAY, **spoiled})


def test_only_a_trusted_countersignature_speaks(files: Files) -> None:
    text = words(files, check=check(sign(trusted=True)))
    assert "Countersignatures next to the bundle" in text
    assert "Replay: INCONCLUSIVE" in text
    text = words(files, check=check(sign(trusted=False)))
    assert "not trusted: says nothing" in text
    assert "Replay: INCONCLUSIVE" not in text


def test_without_a_replay_the_page_says_how_to_get_one(files: Files) -> None:
    assert "No replay of this bundle is known here" in words(files, check=check())
