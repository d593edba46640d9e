"""The whole chain on the golden manifests: real data, real training, the real simulator."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import GOLDEN, ROOT, Appliance
from tests.golden.conftest import TIMEOUT_S, Workplace

WriteManifest = Callable[..., Path]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def read_content(result: dict[str, Any], name: str) -> Any:
    return json.loads((Path(result["bundle"]) / "content" / name).read_bytes())


def test_the_smoke_manifest_makes_a_bundle_that_verifies(
    smoke: dict[str, Any], workplace: Workplace, appliance: Appliance
) -> None:
    outcome = appliance("verify", smoke["bundle"], "--key-dir", workplace.folder / "keys", "--json")
    report = json.loads(outcome.out)
    assert outcome.code == 0, outcome.out
    assert report["trusted"]
    assert report["content_digest"] == smoke["content_digest"]
    metrics = read_content(smoke, "evaluate/metrics.json")
    assert metrics["episodes"] == 2
    assert metrics["simulator"]["embodiment"] == "stand_in"
    videos = list((Path(smoke["bundle"]) / "observed" / "evaluate" / "videos").glob("*.mp4"))
    assert len(videos) == 2


def test_a_stranger_finds_the_bundle_intact_but_of_unknown_origin(
    smoke: dict[str, Any], tmp_path: Path, appliance: Appliance
) -> None:
    copy = tmp_path / "received"
    shutil.copytree(smoke["bundle"], copy)
    assert appliance("verify", copy, "--key-dir", tmp_path / "keys").code == 22
    changed = copy / "content" / "plan" / "plan_meta.json"
    changed.write_bytes(changed.read_bytes().replace(b'"stride_S":1', b'"stride_S":2'))
    outcome = appliance("verify", copy, "--key-dir", tmp_path / "keys")
    assert outcome.code == 21
    assert "content/plan/plan_meta.json" in outcome.out


def test_the_private_key_is_for_its_owner_alone_and_in_no_run_folder(
    smoke: dict[str, Any], workplace: Workplace
) -> None:
    keys = [path for path in (workplace.folder / "keys").rglob("*") if path.is_file()]
    private = [path for path in keys if b"PRIVATE KEY" in path.read_bytes()]
    assert [stat.S_IMODE(path.stat().st_mode) for path in private] == [0o600]
    secret = private[0].read_bytes().splitlines()[1]
    for path in Path(smoke["run_dir"]).rglob("*"):
        if path.is_file():
            assert secret not in path.read_bytes(), path


def test_a_second_run_does_nothing_and_says_so(smoke: dict[str, Any], workplace: Workplace) -> None:
    again = workplace.run(GOLDEN / "smoke.yaml", "smoke")
    assert again["ran"] == []
    assert not again["bundle_written"]
    assert again["content_digest"] == smoke["content_digest"]
    said = subprocess.run(
        workplace.command(GOLDEN / "smoke.yaml", "smoke"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert said.stdout.startswith("Nothing to do")


def test_a_run_killed_twice_ends_with_the_same_content_digest(
    smoke: dict[str, Any], workplace: Workplace
) -> None:
    """kill -9 of `appliance run` alone in training, of the whole process group in evaluation."""
    chance = random.Random(20261122)
    for stage in ("train", "evaluate"):
        run = subprocess.Popen(
            workplace.command(GOLDEN / "smoke.yaml", "killed"),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert run.stderr is not None
        for line in run.stderr:
            if f" {stage} ".encode() in line:
                break
        time.sleep(chance.uniform(4, 12))
        if stage == "train":
            run.kill()
        else:
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        run.stderr.close()
    result = workplace.run(GOLDEN / "smoke.yaml", "killed")
    assert result["content_digest"] == smoke["content_digest"]


def test_an_interrupted_run_says_how_to_go_on(workplace: Workplace) -> None:
    # A shell's background jobs ignore SIGINT and so would everything they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    run = subprocess.Popen(
        workplace.command(GOLDEN / "smoke.yaml", "interrupted"),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    assert run.stderr is not None
    for line in run.stderr:
        if " plan " in line:
            break
    run.send_signal(signal.SIGINT)
    text = run.stderr.read()
    run.stderr.close()
    assert run.wait(timeout=60) == 130
    assert "Run the same command again" in text
    assert "Traceback" not in text


def test_one_changed_plan_field_changes_the_content_digest_and_explain_names_it(
    smoke: dict[str, Any],
    workplace: Workplace,
    appliance: Appliance,
    write_manifest: WriteManifest,
) -> None:
    manifest = write_manifest(("plan_seed: 0", "plan_seed: 5"), ("stride: 1", "stride: 2"))
    folder = workplace.folder / "changed"
    shutil.copytree(smoke["run_dir"], folder, symlinks=True)
    said = json.loads(
        appliance("explain", manifest, "--run-dir", folder, "--no-cache", "--json").out
    )
    by_stage = {each["stage"]: each for each in said}
    assert {change["path"] for change in by_stage["plan"]["changes"]} == {
        "manifest.plan.plan_seed",
        "manifest.plan.stride",
    }
    changed = workplace.run(manifest, folder.name)
    assert changed["content_digest"] != smoke["content_digest"]
    assert (folder / Path(smoke["bundle"]).relative_to(smoke["run_dir"])).is_dir()
    assert changed["ran"][0] == "plan"


def test_stack_blocks_two_of_robotwin_runs_through_the_whole_chain(
    workplace: Workplace, tmp_path: Path
) -> None:
    """The shipped manifest, cut to one episode: a stray policy costs minutes for each."""
    text = (GOLDEN / "stack_blocks_two.yaml").read_text("utf-8")
    for old, new in (
        ("root: data/", f"root: {GOLDEN}/data/"),
        ("steps: 100", "steps: 20"),
        ("episodes: 4", "episodes: 1"),
    ):
        assert old in text
        text = text.replace(old, new)
    manifest = tmp_path / "stack_blocks_two.yaml"
    manifest.write_text(text, "utf-8")
    result = workplace.run(manifest, "stack")
    metrics = read_content(result, "evaluate/metrics.json")
    assert metrics["simulator"]["task"] == "stack_blocks_two"
    for part in ("embodiment", "planner", "shader"):
        assert metrics["simulator"][part]
    assert "not a RoboTwin score" in metrics["note"]
