"""The chain in containers: a real engine, a real image, and the result of the host's own run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.digest import sha256_file
from appliance.engine.container import read_from_image
from appliance.errors import ImageError
from appliance.norm_stats.files import NORM_STATS_FILE
from appliance.stages.chain import RunOptions, choose_engine, open_chain
from appliance.stages.images import read_inventory
from appliance.stages.manifest import read_manifest
from appliance.stages.registry import stages_for
from appliance.stages.run_folder import RunFolder
from tests.conftest import GOLDEN, ROOT
from tests.golden.docker.conftest import IMAGE, Containers
from tests.golden.workflow import lay_out_workspace, missing_artifacts, read_steps, run_steps
from tests.stages.linked_files import link_files
from tests.stand_in_gpus import H100, list_gpus, put_on_path, write_nvidia_smi

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
WriteManifest = Callable[..., Path]
SMOKE = GOLDEN / "smoke.yaml"


@pytest.fixture(scope="session")
def contained(containers: Containers) -> dict[str, Any]:
    """The smoke manifest, run once from nothing in containers."""
    return containers.finish(SMOKE, "smoke")


def content_of(result: dict[str, Any]) -> dict[str, bytes]:
    folder = Path(result["bundle"]) / "content"
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_container_run_has_the_same_content_as_the_hosts_bit_for_bit(
    contained: dict[str, Any], smoke: dict[str, Any]
) -> None:
    """Plan, norm stats, trial list, and here training and outcomes too: the same wheels ran."""
    inside, outside = content_of(contained), content_of(smoke)
    assert {"plan/plan_arrays.npz", "norm_stats/norm_stats.json"} <= set(inside)
    assert any("trials" in name for name in inside)
    assert any("hash_chain" in name for name in inside)
    assert [name for name in inside if inside[name] != outside.get(name)] == []
    assert contained["content_digest"] == smoke["content_digest"]


def test_the_bundle_verifies_and_says_which_image_ran(
    contained: dict[str, Any], containers: Containers
) -> None:
    bundle = Path(contained["bundle"])
    done = containers.appliance("verify", str(bundle), "--key-dir", str(containers.folder / "keys"))
    assert done.returncode == 0, done.stdout
    said = json.loads(containers.appliance("image", "inspect", IMAGE, "--json").stdout)
    lock = json.loads((bundle / "observed" / "lock.json").read_bytes())
    assert lock["platform"]["image"]["id"] == said["id"]
    assert lock["platform"]["image"]["inventory"] == said["inventory"]
    kept = bundle / "observed" / "environment"
    assert json.loads((kept / "image.json").read_bytes())["id"] == said["id"]
    assert json.loads((kept / "inventory.json").read_bytes()) == said["installed"]
    receipt = json.loads((bundle / "observed" / "receipts" / "train.json").read_bytes())
    assert receipt["key_parts"]["environment"]["image"] == said["inventory"]
    bill = json.loads((kept / "sbom.cdx.json").read_bytes())
    named = {(item["name"], item.get("purl", "").split("/")[0]) for item in bill["components"]}
    assert {("jax", "pkg:pypi"), ("sapien", "pkg:pypi"), ("libc6", "pkg:deb")} <= named


def test_the_image_holds_no_bytecode_but_what_numpys_wheel_brings(
    containers: Containers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", containers.daemon.host)
    said = json.loads(containers.appliance("image", "inspect", IMAGE, "--json").stdout)
    script = "import pathlib; print(*pathlib.Path('/usr').rglob('*.pyc'));"
    script += "print(*pathlib.Path('/opt').rglob('*.pyc'))"
    system, installed = read_from_image(said["id"], ["-c", script]).decode().split("\n")[:2]
    assert system == ""
    assert all("/site-packages/numpy/" in path for path in installed.split())


def test_a_second_container_run_does_nothing(
    contained: dict[str, Any], containers: Containers
) -> None:
    again = containers.finish(SMOKE, "smoke")
    assert again["ran"] == []
    assert again["content_digest"] == contained["content_digest"]
    assert containers.left() == []


def start(containers: Containers, run: str, stage: str) -> subprocess.Popen[str]:
    """Start a run and return when ``stage`` begins."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        containers.command(SMOKE, run),
        cwd=ROOT,
        env=containers.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    assert process.stderr is not None
    for line in process.stderr:
        if f" {stage} " in line:
            break
    return process


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    assert process.stderr is not None
    text = process.stderr.read()
    process.stderr.close()
    return process.wait(timeout=120), text


def wait_for(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)


def test_killing_container_driver_and_daemon_leaves_a_run_that_ends_the_same(
    contained: dict[str, Any], containers: Containers
) -> None:
    import docker

    daemon = containers.daemon
    client = docker.DockerClient(base_url=daemon.host)

    run = start(containers, "killed", "train")
    wait_for(lambda: bool(containers.left()), 30)
    time.sleep(4)
    client.api.kill(containers.left()[0], signal="SIGKILL")
    code, text = finish(run)
    assert code == 32, text
    assert "SIGKILL" in text
    assert "Traceback" not in text

    run = start(containers, "killed", "train")
    wait_for(lambda: bool(containers.left()), 30)
    time.sleep(4)
    run.kill()
    finish(run)
    running = client.api.containers  # the stage notices by itself that its run is gone
    wait_for(lambda: running() == [], 20)
    client.close()

    run = start(containers, "killed", "train")
    time.sleep(6)
    daemon.kill()
    code, text = finish(run)
    assert code == 32, text
    assert "container engine" in text
    assert "Traceback" not in text
    done = containers.run(SMOKE, "killed")
    assert done.returncode == 31
    assert "DOCKER_HOST" in done.stderr
    daemon.start()

    result = containers.finish(SMOKE, "killed")
    assert result["content_digest"] == contained["content_digest"]
    assert containers.left() == []


def test_ctrl_c_stops_the_container_and_says_how_to_go_on(containers: Containers) -> None:
    run = start(containers, "interrupted", "dataset")
    wait_for(lambda: bool(containers.left()), 30)
    os.kill(run.pid, signal.SIGINT)
    code, text = finish(run)
    assert code == 130, text
    assert "Run the same command again" in text
    assert "Traceback" not in text
    assert containers.left() == []


def test_gpus_without_nvidias_toolkit_are_a_clear_error(
    containers: Containers,
    write_manifest: WriteManifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A driver is there (a program stands in for it), and the engine cannot hand out its GPU."""
    write_nvidia_smi(tmp_path / "bin", list_gpus(H100))
    put_on_path(tmp_path / "bin", monkeypatch)
    manifest = write_manifest(("engine: host", f"engine: docker\n  gpus: 1\n  image: {IMAGE}"))
    done = containers.run(manifest, "gpus")
    assert done.returncode == 31, done.stderr
    assert "container toolkit" in done.stderr


def test_another_image_than_the_pinned_one_is_refused(
    containers: Containers, write_manifest: WriteManifest
) -> None:
    pinned = write_manifest(
        ("engine: host", f"engine: docker\n  image_digest: sha256:{'0' * 64}"), name="pinned.yaml"
    )
    done = containers.run(pinned, "pinned")
    assert done.returncode == ImageError.exit_code, done.stderr
    assert "not the pinned image" in done.stderr
    absent = write_manifest(
        ("engine: host", "engine: docker\n  image: nobody/nothing:1"), name="absent.yaml"
    )
    done = containers.run(absent, "absent")
    assert done.returncode == ImageError.exit_code, done.stderr
    assert "image_digest" in done.stderr


def test_files_named_over_parents_and_links_are_there_in_the_container(
    containers: Containers,
    write_manifest: WriteManifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Up to one step of training: evaluation takes the tokenizer from the same place."""
    monkeypatch.setenv("DOCKER_HOST", containers.daemon.host)
    linked = link_files(tmp_path, steps=1)
    path = write_manifest(*linked.replacements, name=linked.name)
    manifest = choose_engine(read_manifest(path), "docker")
    folder = RunFolder(tmp_path / "run")
    options = RunOptions(
        run_dir=folder.path,
        cache_dir=None,
        scratch_dir=tmp_path / "scratch",
        key_dir=tmp_path / "keys",
        engine="docker",
    )
    places: dict[str, Path] = {}
    with open_chain(manifest, folder, options) as chain:
        for stage in stages_for(manifest):
            if stage.name == "evaluate":
                break
            receipt = chain.bring_to_receipt(stage, lambda decision: None)
            places[stage.name] = folder.stage_dir(stage.name, receipt.key) / "content"
    reused = places["norm_stats"] / NORM_STATS_FILE
    assert reused.read_bytes() == linked.norm_stats.read_bytes()
    summary = json.loads((places["train"] / "run_summary.json").read_text("utf-8"))
    assert summary["configuration"]["tokenizer_sha256"] == sha256_file(linked.tokenizer)


def test_a_file_an_installer_changed_is_named_and_changes_what_the_image_is(
    containers: Containers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import docker

    monkeypatch.setenv("DOCKER_HOST", containers.daemon.host)
    client = docker.DockerClient(base_url=containers.daemon.host)
    script = (
        "import pathlib, importlib.util as u;"
        "p = pathlib.Path(u.find_spec('sapien').origin).parent / 'wrapper' / 'urdf_loader.py';"
        "p.write_text(p.read_text() + '# patched')"
    )
    made = client.api.create_container(
        IMAGE,
        command=["-c", script],
        entrypoint=["/opt/appliance/bin/python"],
        user="0:0",
    )
    try:
        client.api.start(made["Id"])
        assert client.api.wait(made["Id"])["StatusCode"] == 0
        patched = client.api.commit(made["Id"], repository="patched", tag="cpu")["Id"]
    finally:
        client.api.remove_container(made["Id"], force=True)
    original = read_inventory(client.images.get(IMAGE).id, tmp_path)
    changed = read_inventory(patched, tmp_path)
    client.images.remove(patched, force=True)
    client.close()
    assert original.changed_files == {}
    assert changed.changed_files == {"sapien": ["sapien/wrapper/urdf_loader.py"]}
    assert changed.digest != original.digest


def test_the_example_workflows_container_job_replays_in_containers(
    containers: Containers, tmp_path: Path
) -> None:
    """Its steps as they are, less making room, setting up and building: those are done here."""
    done = ("Make room", "Install the appliance", "Build the image")
    steps = read_steps("container")
    left = [step for step in steps if not str(step.get("name")).startswith(done)]
    assert len(steps) - len(left) == len(done)
    workspace = lay_out_workspace(tmp_path, steps)
    shown = tmp_path / "summary.md"
    run_steps(
        workspace,
        left,
        **{
            **containers.environment,
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "GITHUB_STEP_SUMMARY": str(shown),
        },
    )
    assert "REPRODUCED" in shown.read_text("utf-8")
    assert missing_artifacts(workspace, left) == []
    assert containers.left() == []
