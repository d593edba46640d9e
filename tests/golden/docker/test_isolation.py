"""What a stage's container cannot do: each shown by a program in it that tries."""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle.keys import load_or_create_key
from appliance.engine.container import (
    StageContainer,
    run_label,
    run_python,
    run_stage_container,
)
from appliance.engine.isolation import RUN_LABEL, Exposure, Limits
from appliance.errors import OutOfMemoryError, StageFailedError, StorageError
from appliance.stages.engines import container_environment
from appliance.stages.manifest import read_manifest
from appliance.stages.run_folder import RunFolder
from tests.conftest import DATASET, GOLDEN
from tests.golden.docker.conftest import IMAGE, Containers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

TRY_WRITING = """
import json, os, sys
found = {}
for place in sys.argv[1:]:
    try:
        os.makedirs(place, exist_ok=True)
        with open(os.path.join(place, "trace"), "w") as stream:
            stream.write("here")
        found[place] = "written"
    except OSError as error:
        found[place] = os.strerror(error.errno)
print(json.dumps(found))
"""
TRY_NETWORK = """
import json, os, socket, sys
found = {"interfaces": [name for _, name in socket.if_nameindex()]}
for place in sys.argv[1:]:
    host, port = place.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
        found[place] = "connected"
    except OSError as error:
        found[place] = type(error).__name__
print(json.dumps(found))
"""
TRY_READING = """
import json, os, sys
secret, folder = sys.argv[1], sys.argv[2]
seen = []
for root, folders, files in os.walk("/"):
    if root in ("/dev", "/proc", "/sys", "/opt/appliance", "/usr"):
        folders.clear()
        continue
    for name in files:
        try:
            with open(os.path.join(root, name), "rb") as stream:
                if secret.encode() in stream.read(1 << 20):
                    seen.append(os.path.join(root, name))
        except OSError:
            pass
print(json.dumps({
    "seen": seen,
    "folder": os.path.exists(folder),
    "environment": [name for name, value in os.environ.items() if secret in value],
    "mounts": open("/proc/self/mountinfo").read(),
}))
"""
LEAVE_LINKS = """
import json, os, sys
run_dir, keys, data = sys.argv[1:]
os.symlink(keys, os.path.join(run_dir, "environment"))
try:
    os.link(data, os.path.join(run_dir, "data"))
    found = "linked"
except OSError as error:
    found = os.strerror(error.errno)
print(json.dumps(found))
"""
SAY_RIGHTS = """
import json, os
lines = dict(line.split(":\\t") for line in open("/proc/self/status") if ":\\t" in line)
wanted = ("CapEff", "CapPrm", "CapBnd", "NoNewPrivs", "Seccomp")
print(json.dumps({name: lines[name].strip() for name in wanted} | {"uid": os.getuid()}))
"""
FORK = """
import os, sys, time
made = 0
try:
    for _ in range(500):
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        made += 1
except OSError:
    pass
print(made)
"""


@pytest.fixture
def request_(
    containers: Containers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StageContainer]:
    """A stage's container on a run folder beside a key folder, with a dataset as input."""
    monkeypatch.setenv("DOCKER_HOST", containers.daemon.host)
    folder = RunFolder(tmp_path / "run")
    folder.create()
    manifest = read_manifest(GOLDEN / "smoke.yaml")
    with folder.claimed():
        yield StageContainer(
            image_id=IMAGE,
            exposure=Exposure(run_dir=folder.path, inputs=(DATASET,), hidden=(tmp_path / "keys",)),
            limits=Limits(memory_bytes=1 << 30, cpus=1.0, pids=64, gpus=0),
            environment=container_environment(manifest.runtime, folder.path / ".scratch"),
            claim=folder.claim_path,
        )


def run(request: StageContainer, program: str, *arguments: str) -> Any:
    said = io.BytesIO()
    code, state = run_python("probe", ["-c", program, *arguments], request, output=said)
    assert code == 0, (said.getvalue(), state)
    return json.loads(said.getvalue())


def test_only_the_run_folder_and_the_containers_own_tmp_can_be_written(
    request_: StageContainer,
) -> None:
    run_dir = str(request_.exposure.run_dir)
    beside = str(request_.exposure.run_dir.parent)
    refused = ["/", "/etc", "/opt/appliance", "/usr/bin", "/var", "/root", str(DATASET)]
    found = run(request_, TRY_WRITING, run_dir, "/tmp", beside, *refused)
    assert found.pop(run_dir) == found.pop("/tmp") == "written"
    found.pop(beside)  # below the container's own /tmp here, refused elsewhere; never the host's
    assert set(found.values()) <= {"Read-only file system", "Permission denied"}, found
    assert (request_.exposure.run_dir / "trace").read_text() == "here"
    assert not (DATASET / "trace").exists()
    assert not (request_.exposure.run_dir.parent / "trace").exists()


def test_neither_the_network_nor_the_hosts_own_ports_can_be_reached(
    request_: StageContainer,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        found = run(request_, TRY_NETWORK, f"127.0.0.1:{port}", "1.1.1.1:443", "example.com:80")
    assert found.pop("interfaces") == ["lo"]
    assert "connected" not in found.values()


def test_the_signing_key_is_not_seen_and_a_mount_that_would_show_it_is_refused(
    request_: StageContainer,
) -> None:
    keys = request_.exposure.hidden[0]
    load_or_create_key(keys)
    private = next(path for path in keys.rglob("*") if b"PRIVATE" in path.read_bytes())
    secret = private.read_text().splitlines()[1]
    found = run(request_, TRY_READING, secret, str(keys))
    # The program's own arguments hold the secret; nothing else does.
    assert found["seen"] == []
    assert found["environment"] == []
    assert not found["folder"]
    assert str(keys) not in found["mounts"]
    exposed = replace(request_.exposure, inputs=(keys.parent,))
    with pytest.raises(StageFailedError, match="signing key"):
        run(replace(request_, exposure=exposed), SAY_RIGHTS)


def test_a_link_left_in_the_run_folder_is_found_and_no_input_can_be_taken_in(
    request_: StageContainer,
) -> None:
    run_dir, keys = request_.exposure.run_dir, request_.exposure.hidden[0]
    data = DATASET / "meta" / "info.json"
    found = run(request_, LEAVE_LINKS, str(run_dir), str(keys), str(data))
    assert found == "Invalid cross-device link"
    with pytest.raises(StorageError, match="environment: neither a regular file nor a folder"):
        RunFolder(run_dir).check_no_links()


def test_a_stage_has_no_capabilities_and_can_get_none(request_: StageContainer) -> None:
    found = run(request_, SAY_RIGHTS)
    assert {found["CapEff"], found["CapPrm"], found["CapBnd"]} == {"0" * 16}
    assert found["NoNewPrivs"] == "1"
    assert found["Seccomp"] == "2"
    assert found["uid"] == os.getuid()


def test_files_belong_to_the_caller_whoever_that_is(
    request_: StageContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = request_.exposure.run_dir
    os.chown(run_dir, 12345, 23456)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setattr(os, "getgid", lambda: 23456)
    assert run(request_, TRY_WRITING, str(run_dir)) == {str(run_dir): "written"}
    status = (run_dir / "trace").stat()
    assert (status.st_uid, status.st_gid) == (12345, 23456)


def test_processes_are_counted(request_: StageContainer) -> None:
    assert 0 < run(request_, FORK) < 64


def run_stage_with(request: StageContainer, program: str) -> int:
    """Run a stage whose Python runs ``program`` before anything of ours."""
    (request.exposure.run_dir / "sitecustomize.py").write_text(program, "utf-8")
    environment = {**request.environment, "PYTHONPATH": str(request.exposure.run_dir)}
    return run_stage_container(
        "plan", replace(request, environment=environment), output=io.BytesIO()
    )


def test_too_little_memory_is_told_from_a_failure_and_from_a_kill(
    request_: StageContainer,
) -> None:
    # A run folder without a manifest: the stage's own error and exit code come through.
    assert run_stage_with(request_, "") == StorageError.exit_code
    with pytest.raises(OutOfMemoryError, match=r"1\.00 GiB.*runtime\.memory_gib"):
        run_stage_with(request_, "held = [bytearray(1 << 26) for _ in range(64)]")
    with pytest.raises(StageFailedError, match=r"SIGKILL from outside.*again to continue"):
        run_stage_with(request_, "import os\nos.kill(os.getpid(), 9)")
    with pytest.raises(KeyboardInterrupt):
        run_stage_with(request_, "import os\nos._exit(130)")


def test_what_a_killed_run_left_is_removed_by_the_next(request_: StageContainer) -> None:
    import docker

    client = docker.from_env()
    label = {RUN_LABEL: run_label(request_.exposure.run_dir)}
    left = client.api.create_container(IMAGE, labels=label)["Id"]
    other = client.api.create_container(IMAGE, labels={RUN_LABEL: "another"})["Id"]
    run(request_, SAY_RIGHTS)
    there = {each["Id"] for each in client.api.containers(all=True)}
    client.api.remove_container(other, force=True)
    client.close()
    assert left not in there
    assert other in there
