"""What code in a container leaves in the run folder leads nowhere, and decides nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.cli.runs import explain_run
from appliance.engine.container import StageContainer
from appliance.errors import EvaluationError, StorageError
from appliance.files import write_atomic, write_json
from appliance.manifest.lock import Lock
from appliance.stages import engines
from appliance.stages.chain import Chain, RunOptions, open_chain
from appliance.stages.decide import Action, Decision, read_previous
from appliance.stages.definition import Stage
from appliance.stages.engines import ContainerEngine, Engine
from appliance.stages.evaluation_place import find_evaluation
from appliance.stages.execute import load_run, record_stage
from appliance.stages.images import ImageEnvironment
from appliance.stages.manifest import read_manifest
from appliance.stages.receipt import CHECKED_FILE, seal_folder, stage_key
from appliance.stages.registry import find_stage
from appliance.stages.run_files import read_run_input
from appliance.stages.run_folder import RunFolder
from appliance.stages.spot_check import SpotCheck
from appliance.stages.spot_check import stage as spot_check_stage
from tests.conftest import DATASET, GOLDEN
from tests.engine.stand_in_engine import NAME, stand_in_engine

Plant = Callable[[Path, Path], None]
KEY = stage_key({})
PLACE = f"stages/plan-{KEY[:12]}"


def link(name: str) -> Plant:
    def plant(run: Path, secrets: Path) -> None:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).symlink_to(secrets)

    return plant


def replace_by_link(name: str) -> Plant:
    def plant(run: Path, secrets: Path) -> None:
        (run / name).rename(run / "moved")
        (run / name).symlink_to(secrets)

    return plant


def leave_pipe(run: Path, secrets: Path) -> None:
    del secrets
    os.mkfifo(run / PLACE / "content" / "pipe")


PLANTS: dict[str, Plant] = {
    "in content": link(f"{PLACE}/content/deep/keys"),
    "beside the parts": link(f"{PLACE}/keys"),
    "a part": link(f"{PLACE}/observed"),
    "a stage": link("stages/train-0123456789ab"),
    "all stages": replace_by_link("stages"),
    "the stage itself": replace_by_link(PLACE),
    "environment": link("environment"),
    "bundles": link("bundles"),
    "scratch": link(".scratch"),
    "scratch of an image": link(".scratch/0123456789ab"),
    "state": link("run.json"),
    "nowhere": lambda run, _: (run / "environment").symlink_to("gone"),
    "a pipe": leave_pipe,
}


class PlantingEngine:
    """Finishes any stage, and leaves something in the run folder."""

    def __init__(self, plant: Plant, secrets: Path) -> None:
        self.plant, self.secrets = plant, secrets

    def run_stage(self, stage: Stage, folder: RunFolder, claim: int) -> int:
        del claim
        place = folder.stage_dir(stage.name, KEY)
        write_json(place / "content" / "said.json", {})
        times = {"started_utc": "1970-01-01T00:00:00+00:00", "seconds": 0.0}
        seal_folder(place, stage=stage.name, key_parts={}, times=times, host={})
        self.plant(folder.path, self.secrets)
        return 0


def options(tmp_path: Path) -> RunOptions:
    return RunOptions(
        run_dir=tmp_path / "run",
        cache_dir=tmp_path / "cache",
        scratch_dir=tmp_path / "scratch",
        key_dir=tmp_path / "keys",
        declares=False,
    )


def open_stand_in(tmp_path: Path, run: str, plant: Plant) -> Chain:
    folder = RunFolder(tmp_path / run)
    folder.create()
    return Chain(
        manifest=read_manifest(GOLDEN / "smoke.yaml"),
        lock=cast(Lock, None),
        folder=folder,
        options=options(tmp_path),
        engine=cast(Engine, PlantingEngine(plant, tmp_path / "secrets")),
        claim=-1,
        signer=lambda: pytest.fail("nothing is to be signed"),
    )


def listing(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_nlink for path in folder.rglob("*")}


@pytest.mark.parametrize("what", PLANTS)
def test_a_link_that_a_stage_left_ends_the_run_before_anything_follows_it(
    tmp_path: Path, what: str
) -> None:
    secrets = tmp_path / "secrets"
    (secrets / "content").mkdir(parents=True)
    (secrets / "signing_key.pem").write_text("secret")
    before = listing(secrets)
    chain = open_stand_in(tmp_path, "run", PLANTS[what])
    manifest, folder = chain.manifest, chain.folder
    folder.check_no_links()
    decision = Decision(stage="plan", action=Action.RUN, key=KEY)
    with pytest.raises(StorageError, match="Remove it and run the same command again"):
        chain.finish(find_stage(manifest, "plan"), decision)
    assert not (tmp_path / "cache").exists()
    # Nor does the next run follow it, with whatever engine.
    with (
        pytest.raises(StorageError, match="neither a regular file nor a folder"),
        open_chain(manifest, folder, options(tmp_path)),
    ):
        pass
    with pytest.raises(StorageError, match="neither a regular file nor a folder"):
        read_run_input(folder, embed_videos=False)
    with pytest.raises(StorageError, match="neither a regular file nor a folder"):
        explain_run(GOLDEN / "smoke.yaml", folder.path, cache=False, engine=None, as_json=True)
    assert listing(secrets) == before


def test_a_cached_result_that_was_changed_unseen_is_made_again(tmp_path: Path) -> None:
    stage = find_stage(read_manifest(GOLDEN / "smoke.yaml"), "plan")
    first = open_stand_in(tmp_path, "first", lambda *_: None)
    first.finish(stage, Decision(stage="plan", action=Action.RUN, key=KEY))
    entry = tmp_path / "cache" / "plan" / KEY
    said = entry / "content" / "said.json"
    original = said.read_bytes()
    said.write_bytes(b"changed")
    status = said.stat()
    stats = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    write_json(entry / CHECKED_FILE, {"content/said.json": stats})
    assert first.cache.holds("plan", KEY)
    second = open_stand_in(tmp_path, "second", lambda *_: None)
    second.finish(stage, Decision(stage="plan", action=Action.CACHED, key=KEY))
    assert second.ran == ["plan"]
    assert said.read_bytes() == original


def test_what_a_run_itself_links_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    (folder.bundles_dir / "1").mkdir(parents=True)
    folder.point_bundle_link(folder.bundles_dir / "1")
    (tmp_path / ".bundle.tmp").symlink_to("bundles")  # killed while it linked the newest
    (tmp_path / ".scratch" / "image" / "datasets").mkdir(parents=True)
    (tmp_path / ".scratch" / "image" / "datasets" / "linked").symlink_to("/etc")
    folder.check_no_links()
    monkeypatch.chdir(tmp_path)
    RunFolder(Path()).check_no_links()


def test_the_lock_of_a_run_folder_is_not_taken_through_a_link(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.claim_path.symlink_to(tmp_path / "made")
    with pytest.raises(StorageError), folder.claimed():
        pass
    assert not (tmp_path / "made").exists()


def container_engine(tmp_path: Path) -> ContainerEngine:
    return ContainerEngine(
        manifest=read_manifest(GOLDEN / "smoke.yaml"),
        opened=cast(ImageEnvironment, SimpleNamespace(found=SimpleNamespace(id="sha256:abc"))),
        run_dir=tmp_path / "run",
        secrets=(),
    )


def test_a_container_is_shown_nothing_because_the_run_folder_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[Path, ...]] = []

    def note(stage: str, request: StageContainer, **_: Any) -> int:
        del stage
        shown.append(request.exposure.inputs)
        return 0

    machine = SimpleNamespace(memory_bytes=8 << 30, num_cpus=2)
    monkeypatch.setattr(engines, "probe_engine", lambda: machine)
    monkeypatch.setattr(engines, "run_stage_container", note)
    folder = RunFolder(tmp_path / "run")
    engine = container_engine(tmp_path)
    plan = find_stage(engine.manifest, "plan")
    for planted in ("/root/.ssh", 7):
        folder.write_state({"spot_check": {"checkpoints": planted}})
        engine.run_stage(plan, folder, -1)
    check = SpotCheck(first_step=1, num_steps=1, checkpoints=tmp_path / "kept")
    engine.run_stage(spot_check_stage(engine.manifest, check), folder, -1)
    assert shown == [(DATASET,), (DATASET,), (DATASET, tmp_path / "kept")]


@pytest.mark.parametrize(
    "named",
    [5, None, [], {"plan": 5}, {"plan": "../../elsewhere/plan-1"}, {"plan": "9" * 5000}],
)
def test_what_names_no_stage_folder_in_its_state_is_none(tmp_path: Path, named: object) -> None:
    folder = RunFolder(tmp_path / "run")
    write_json(folder.state_path, {"stages": named})
    assert folder.stage_places() == {}
    assert read_previous(folder) == {}
    with pytest.raises(EvaluationError):
        find_evaluation(folder.path)
    record_stage(folder, "plan", folder.stage_dir("plan", KEY))
    assert folder.stage_places() == {"plan": folder.path / PLACE}


@pytest.mark.parametrize("key", ["dataset_root", "files", "scratch_dir"])
@pytest.mark.parametrize("value", [None, 5, ["x"], {"train.init.checkpoint": 5}])
def test_a_state_of_other_types_is_that_of_no_run(tmp_path: Path, key: str, value: object) -> None:
    folder = RunFolder(tmp_path / "run")
    write_atomic(folder.manifest_path, (GOLDEN / "smoke.yaml").read_bytes())
    state = {"dataset_root": "/data", "files": {}, "scratch_dir": "/scratch", key: value}
    write_json(folder.state_path, state)
    with pytest.raises(StorageError, match="not a run folder"):
        load_run(folder.path)


def test_a_container_that_a_killed_run_left_is_ended_before_its_folder_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.environment_dir.symlink_to(tmp_path)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/engine.sock")
    left = {"containers/json": (200, [{"Id": NAME, "Created": int(time.time())}])}
    with (
        stand_in_engine(tmp_path / "engine.sock", **left) as asked,
        pytest.raises(StorageError, match="environment"),
    ):
        container_engine(tmp_path).prepare(folder)
    assert f"DELETE /containers/{NAME}" in asked
    assert not (tmp_path / "image.json").exists()
