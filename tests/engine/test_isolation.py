"""What a container is given, as data; tests/golden/docker shows that the engine keeps to it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.engine.isolation import (
    GIB,
    Exposure,
    Limits,
    container_settings,
    find_mounts,
    memory_limit,
)
from appliance.errors import StageFailedError

LIMITS = Limits(memory_bytes=2 * GIB, cpus=1.5, pids=100, gpus=0)


@pytest.fixture
def exposure(tmp_path: Path) -> Exposure:
    for name in ("run", "data", "keys"):
        (tmp_path / name).mkdir()
    return Exposure(
        run_dir=tmp_path / "run", inputs=(tmp_path / "data",), hidden=(tmp_path / "keys",)
    )


def mounted(exposure: Exposure) -> dict[str, bool]:
    return {mount["Target"]: mount["ReadOnly"] for mount in find_mounts(exposure)}


def test_the_run_folder_is_the_only_writable_mount_and_paths_are_the_hosts(
    exposure: Exposure, tmp_path: Path
) -> None:
    assert mounted(exposure) == {str(tmp_path / "run"): False, str(tmp_path / "data"): True}
    assert all(mount["Source"] == mount["Target"] for mount in find_mounts(exposure))


def test_an_input_inside_the_run_folder_or_another_input_needs_no_mount(
    exposure: Exposure, tmp_path: Path
) -> None:
    (tmp_path / "run" / "own").mkdir()
    (tmp_path / "data" / "part").mkdir()
    more = replace(
        exposure,
        inputs=(*exposure.inputs, tmp_path / "run" / "own", tmp_path / "data" / "part"),
    )
    assert mounted(more) == mounted(exposure)


def test_links_that_lead_out_of_an_input_are_followed(exposure: Exposure, tmp_path: Path) -> None:
    """A hub's cache keeps a dataset's files as links into a folder beside it."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "a1").write_text("x")
    (tmp_path / "data" / "file.parquet").symlink_to("../blobs/a1")
    (tmp_path / "data" / "own").symlink_to("file.parquet")
    assert mounted(exposure)[str(tmp_path / "blobs")] is True


@pytest.mark.parametrize("place", ["keys", "."])
def test_a_mount_that_would_show_the_signing_key_is_refused(
    exposure: Exposure, tmp_path: Path, place: str
) -> None:
    with pytest.raises(StageFailedError, match="signing key"):
        find_mounts(replace(exposure, inputs=(tmp_path / place,)))
    with pytest.raises(StageFailedError, match="signing key"):
        find_mounts(replace(exposure, run_dir=tmp_path / place))


def test_a_container_has_no_network_no_capabilities_and_limits(exposure: Exposure) -> None:
    settings = container_settings(exposure, LIMITS, {"A": "1"}, {})
    host = settings["host"]
    assert host["network_mode"] == "none"
    assert host["read_only"]
    assert host["cap_drop"] == ["ALL"]
    assert host["security_opt"] == ["no-new-privileges:true"]
    assert host["mem_limit"] == host["memswap_limit"] == 2 * GIB
    assert host["nano_cpus"] == 1_500_000_000
    assert host["pids_limit"] == 100
    assert "device_requests" not in host
    assert settings["create"]["user"] == f"{os.getuid()}:{os.getgid()}"
    assert settings["create"]["environment"] == {"A": "1"}
    assert settings["create"]["hostname"] == "localhost"


def test_gpus_come_with_the_graphics_capability_and_the_callers_choice(
    exposure: Exposure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    limits = replace(LIMITS, gpus=2)
    settings = container_settings(exposure, limits, {}, {})
    (request,) = settings["host"]["device_requests"]
    assert (request["Count"], request["DeviceIDs"]) == (2, [])
    assert {"graphics", "compute", "utility"} <= set(request["Capabilities"][0])
    assert settings["create"]["environment"]["NVIDIA_DRIVER_CAPABILITIES"] == "all"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6")
    (request,) = container_settings(exposure, limits, {}, {})["host"]["device_requests"]
    assert (request["Count"], request["DeviceIDs"]) == (0, ["3", "5"])


def test_memory_is_as_asked_or_the_machines_less_a_reserve() -> None:
    assert memory_limit(0.5, 8 * GIB) == GIB // 2
    assert memory_limit(None, 8 * GIB) == 7 * GIB
    assert memory_limit(None, 100 * GIB) == 95 * GIB
    assert memory_limit(None, GIB) == GIB // 2
