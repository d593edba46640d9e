"""The time `auto` takes: what a stranger's bundle says of it is not believed."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.files import write_json
from appliance.replay.budget import OutOfTimeError, TimeLimit
from appliance.replay.places import Places
from appliance.replay.subject import Subject, open_subject
from appliance.replay.work import Extent, Passage, choose_extent
from appliance.stages.manifest import read_manifest
from tests.conftest import DATASET, GOLDEN, Appliance
from tests.replay.conftest import sign_bundle

FIRST = Passage(first_step=0, num_steps=3)


@pytest.fixture
def timed_bundle(original: Path, tmp_path: Path) -> Path:
    """The original's bundle with receipts: one second each for training and evaluation."""
    observed = {}
    for name in ("train", "evaluate"):
        times = {"started_utc": "2026-01-01T00:00:00+00:00", "seconds": 1.0}
        parts: dict[str, Any] = {"key_parts": {}, "outputs": {}, "content_digest": "x", "host": {}}
        write_json(
            tmp_path / f"{name}.json",
            {"version": 1, "stage": name, "key": "a" * 64, "times": times, **parts},
        )
        observed[f"receipts/{name}.json"] = tmp_path / f"{name}.json"
    manifest = read_manifest(GOLDEN / "smoke.yaml")
    return sign_bundle(tmp_path, manifest, original / "content", observed=observed)


@pytest.fixture
def extent_of(timed_bundle: Path) -> Callable[..., Extent]:
    """What `auto` would repeat for whoever trusts the keys in a folder."""

    def choose(keys: Path, budget_s: float = 300.0, *, same_platform: bool = True) -> Extent:
        with open_subject(timed_bundle, Places(dataset_root=DATASET, key_dir=keys)) as subject:
            assert isinstance(subject, Subject)
            return choose_extent(subject, None, None, budget_s, same_platform=same_platform)

    return choose


def test_the_times_of_a_bundle_you_trust_count_on_its_own_platform(
    extent_of: Callable[..., Extent], tmp_path: Path
) -> None:
    assert extent_of(tmp_path / "keys") == Extent(train=True, evaluate=True)


@pytest.mark.parametrize(
    ("keys", "same_platform", "why"),
    [("none", True, "a signer you do not trust"), ("keys", False, "on another platform")],
)
def test_other_times_are_not_believed_but_kept_by_the_clock_after_some_steps(
    extent_of: Callable[..., Extent], tmp_path: Path, keys: str, why: str, *, same_platform: bool
) -> None:
    extent = extent_of(tmp_path / keys, same_platform=same_platform)
    assert (extent.spot, extent.train, extent.evaluate) == (FIRST, True, True)
    assert extent.limit is not None
    assert extent.limit.seconds == 300.0
    assert why in extent.limit.why
    long = extent_of(tmp_path / keys, 1.0, same_platform=same_platform)
    assert (long.spot, long.train, long.evaluate) == (FIRST, False, False)
    assert long.limit is not None


def test_what_runs_is_stopped_when_the_time_is_over_and_the_callers_alarm_stays() -> None:
    handler = signal.getsignal(signal.SIGALRM)
    left_s, _ = signal.getitimer(signal.ITIMER_REAL)  # of the test's own time limit
    began = time.monotonic()
    limit = TimeLimit(seconds=0.2, why="of a test")
    with pytest.raises(OutOfTimeError), limit.kept():
        subprocess.run(["sleep", "60"], check=True)
    assert time.monotonic() - began < 30
    with pytest.raises(OutOfTimeError), limit.kept():
        time.sleep(60)  # there is no time any more
    with replace(limit, seconds=600.0).kept():
        pass
    assert signal.getsignal(signal.SIGALRM) is handler
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) is (left_s > 0)


def test_ctrl_c_stays_ctrl_c_when_the_time_is_over_while_it_stops() -> None:
    def stop() -> None:
        try:
            raise KeyboardInterrupt
        except BaseException:
            time.sleep(0.6)  # as waiting for a stage to stop
            raise

    with (
        pytest.raises(KeyboardInterrupt) as raised,
        TimeLimit(seconds=0.3, why="of a test").kept(),
    ):
        stop()
    assert not isinstance(raised.value, OutOfTimeError)


def test_when_the_time_is_over_what_was_shown_until_then_stands(
    timed_bundle: Path, tmp_path: Path, appliance: Appliance
) -> None:
    outcome = appliance(
        *("replay", timed_bundle, "--dataset-root", DATASET, "--key-dir", tmp_path / "none"),
        *("--work-dir", tmp_path / "work", "--output", tmp_path / "verdict.json"),
        *("--budget", "0.034"),  # two seconds: what the stages took, by the stranger's word
    )
    said = json.loads((tmp_path / "verdict.json").read_bytes())
    assert (outcome.code, said["verdict"], said["level"]) == (0, "REPRODUCED", "R1"), outcome.err
    assert "at most the budget of 0.034 minutes, because how long it takes" in outcome.err
    for level in ("R2", "R3", "R5"):
        assert said["levels"][level]["status"] == "not tested"
        assert "the budget of 0.034 minutes ran out in stage" in said["levels"][level]["reason"]
        assert "a signer you do not trust" in said["levels"][level]["reason"]
