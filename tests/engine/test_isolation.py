"""What a container is given, as data; tests/golden/docker shows that the engine keeps to it."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.bundle.keys import (
    PRIVATE_KEY_FILE,
    PUBLIC_KEY_FILE,
    create_key,
    default_key_dir,
    secret_places,
)
from appliance.engine import isolation
from appliance.engine.isolation import (
    GIB,
    Exposure,
    Limits,
    container_settings,
    container_user,
    cpu_limit,
    find_mounts,
    memory_limit,
)
from appliance.errors import RuntimeMissingError, StageFailedError
from tests.engine.mounted_tree import copy_mounts, find_inside

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
    for name in ("a1", "another's"):
        (tmp_path / "blobs" / name).write_text("x")
    (tmp_path / "data" / "file.parquet").symlink_to("../blobs/a1")
    (tmp_path / "data" / "own").symlink_to("file.parquet")
    (tmp_path / "data" / "gone").symlink_to("../blobs/none")
    (tmp_path / "data" / "circle").symlink_to("circle")
    expected = {"run": False, "data": True, "blobs/a1": True}
    assert mounted(exposure) == {str(tmp_path / name): value for name, value in expected.items()}


@pytest.mark.parametrize("absolute", [False, True])
def test_a_link_reached_over_other_links_is_found_in_the_container(
    exposure: Exposure, tmp_path: Path, absolute: bool
) -> None:
    """data/file -> hop/first -> far/second -> end/bytes; hop is a link too, data/all -> hop."""
    for name in ("far", "end", "real hop"):
        (tmp_path / name).mkdir()
    (tmp_path / "end" / "bytes").write_text("here")
    (tmp_path / "end" / "unnamed").write_text("not to be shown")
    beside = tmp_path if absolute else Path("..")
    (tmp_path / "hop").symlink_to("real hop")
    (tmp_path / "far" / "second").symlink_to(beside / "end" / "bytes")
    (tmp_path / "real hop" / "first").symlink_to(beside / "far" / "second")
    (tmp_path / "data" / "file").symlink_to(beside / "hop" / "first")
    (tmp_path / "data" / "all").symlink_to(beside / "hop")
    root = tmp_path / "container"
    copy_mounts(find_mounts(exposure), root)
    for name in ("file", "all/first"):
        assert find_inside(root, tmp_path / "data" / name).read_text() == "here"
    assert not [path for path in root.rglob("*") if path.name == "unnamed"]


def test_a_folder_a_link_leads_to_is_mounted_without_what_lies_beside_it(
    exposure: Exposure, tmp_path: Path
) -> None:
    (tmp_path / "large" / "wanted").mkdir(parents=True)
    (tmp_path / "large" / "other").mkdir()
    (tmp_path / "data" / "part").symlink_to(tmp_path / "large" / "wanted")
    targets = {str(tmp_path / name) for name in ("run", "data", "large/wanted")}
    assert mounted(exposure).keys() == targets


@pytest.mark.parametrize(
    "place",
    ["/", "/opt", "/usr", "/usr/lib", "/usr/local", "/usr/local/lib", "/lib", "/etc", "/tmp"],
)
def test_a_mount_over_what_the_image_runs_with_is_refused(
    exposure: Exposure, tmp_path: Path, place: str
) -> None:
    Path(place).stat()
    unhidden = replace(exposure, hidden=())
    if not Path(place).is_symlink():
        with pytest.raises(StageFailedError, match="over the image's own /"):
            find_mounts(replace(unhidden, inputs=(Path(place),)))
    (tmp_path / "data" / "link").symlink_to(place)
    with pytest.raises(StageFailedError, match="over the image's own /"):
        find_mounts(unhidden)


@pytest.mark.parametrize(
    "place", ["/usr/local/bin", "/usr/share/doc", "/lib/os-release", "/etc/passwd", "/proc/self"]
)
def test_no_link_leads_into_what_an_image_runs_with(
    exposure: Exposure, tmp_path: Path, place: str
) -> None:
    """Bases differ: the Python of one is Debian's, that of another lies in /usr/local."""
    Path(place).stat()
    (tmp_path / "data" / "link").symlink_to(place)
    with pytest.raises(StageFailedError, match=f"^{place}: .* image's own /"):
        find_mounts(replace(exposure, hidden=()))


def test_a_manifest_may_name_a_place_beside_what_an_image_runs_with(
    exposure: Exposure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("/opt/data", "/opt/robotwin-assets", "/usr/local/share/no such data"):
        assert mounted(replace(exposure, inputs=(Path(place),)))[place]
    for place in ("/opt/robotwin", "/opt/appliance/lib", "/usr/local/lib/python3.11"):
        with pytest.raises(StageFailedError, match="over the image's own /"):
            find_mounts(replace(exposure, inputs=(Path(place),)))
    monkeypatch.setattr(isolation, "_IMAGE_ROOTS", (str(tmp_path / "usr"),))
    (tmp_path / "usr" / "named").mkdir(parents=True)
    (tmp_path / "data" / "link").symlink_to(tmp_path / "usr" / "named")
    with pytest.raises(StageFailedError, match="image's own /"):
        find_mounts(exposure)
    both = replace(exposure, inputs=(*exposure.inputs, tmp_path / "usr" / "named"))
    assert mounted(both)[str(tmp_path / "usr" / "named")]


def test_a_hub_cache_of_many_files_is_one_mount_and_too_many_links_are_an_error(
    exposure: Exposure, tmp_path: Path
) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number in range(1001):
        (blobs / str(number)).touch()
        (tmp_path / "data" / f"{number}.parquet").symlink_to(f"../blobs/{number}")
    assert mounted(exposure).keys() == {str(tmp_path / name) for name in ("run", "data", "blobs")}
    (blobs / "another revision's").touch()
    with pytest.raises(StageFailedError, match=r"more than 1000 places.*cp -rL"):
        find_mounts(exposure)
    for number in range(500):
        (tmp_path / "data" / f"{number}.parquet").unlink()
    targets = mounted(exposure)
    assert len(targets) == 2 + 501
    assert str(blobs / "another revision's") not in targets


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, ...]:
    """A real key whose file is a link to another folder, the user's own key, and a passphrase."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    create_key(default_key_dir())
    create_key(tmp_path / "keys")
    (tmp_path / "stick").mkdir()
    (tmp_path / "keys" / PRIVATE_KEY_FILE).rename(tmp_path / "stick" / "key")
    (tmp_path / "keys" / PRIVATE_KEY_FILE).symlink_to(tmp_path / "stick" / "key")
    (tmp_path / "words").write_text("velvet")
    (tmp_path / "link to words").symlink_to("words")
    return secret_places(tmp_path / "keys", tmp_path / "link to words")


OWN_KEYS = "config/plan-star-appliance/keys"


@pytest.mark.parametrize(
    "place",
    [
        *(".", "keys", "config", OWN_KEYS, "stick"),
        *(f"keys/{PRIVATE_KEY_FILE}", f"{OWN_KEYS}/{PRIVATE_KEY_FILE}", "stick/key", "words"),
        *(f"keys/{PUBLIC_KEY_FILE}", f"{OWN_KEYS}/{PUBLIC_KEY_FILE}", "link to words"),
    ],
)
def test_a_mount_that_would_show_the_signing_key_is_refused(
    exposure: Exposure, secrets: tuple[Path, ...], tmp_path: Path, place: str
) -> None:
    hiding = replace(exposure, hidden=secrets)
    assert mounted(hiding)
    with pytest.raises(StageFailedError, match="signing key"):
        find_mounts(replace(hiding, inputs=(tmp_path / place,)))
    with pytest.raises(StageFailedError, match="signing key"):
        find_mounts(replace(hiding, run_dir=tmp_path / place))
    (tmp_path / "data" / "innocent").symlink_to(tmp_path / place)
    with pytest.raises(StageFailedError, match="signing key"):
        find_mounts(hiding)


def test_a_container_has_no_network_no_capabilities_and_limits(exposure: Exposure) -> None:
    settings = container_settings(exposure, LIMITS, {"A": "1"}, {}, user="1:2")
    host = settings["host"]
    assert host["network_mode"] == "none"
    assert host["read_only"]
    assert host["cap_drop"] == ["ALL"]
    assert host["security_opt"] == ["no-new-privileges:true"]
    assert host["mem_limit"] == host["memswap_limit"] == 2 * GIB
    assert host["nano_cpus"] == 1_500_000_000
    assert host["pids_limit"] == 100
    assert "device_requests" not in host
    assert settings["create"]["user"] == "1:2"
    assert settings["create"]["environment"] == {"A": "1"}
    assert settings["create"]["hostname"] == "localhost"


def test_a_container_writes_as_the_caller_in_whatever_way_the_engine_gives_ids() -> None:
    plain = ("name=seccomp,profile=default", "name=cgroupns")
    assert container_user(plain) == f"{os.getuid()}:{os.getgid()}"
    assert container_user((*plain, "name=rootless")) == "0:0"
    with pytest.raises(RuntimeMissingError, match=r"userns-remap.*--engine host"):
        container_user((*plain, "name=userns"))


def test_gpus_come_with_the_graphics_capability_and_the_callers_choice(
    exposure: Exposure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    limits = replace(LIMITS, gpus=2)
    settings = container_settings(exposure, limits, {}, {}, user="1:2")
    (request,) = settings["host"]["device_requests"]
    assert (request["Count"], request["DeviceIDs"]) == (2, [])
    assert {"graphics", "compute", "utility"} <= set(request["Capabilities"][0])
    assert settings["create"]["environment"]["NVIDIA_DRIVER_CAPABILITIES"] == "all"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6")
    (request,) = container_settings(exposure, limits, {}, {}, user="1:2")["host"]["device_requests"]
    assert (request["Count"], request["DeviceIDs"]) == (0, ["3", "5"])


@pytest.mark.parametrize("choice", ["3", "3,-1,4", "3,3", "-1", "", "3,,4", " 3 "])
def test_fewer_gpus_chosen_than_asked_for_are_refused(
    exposure: Exposure, monkeypatch: pytest.MonkeyPatch, choice: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", choice)
    with pytest.raises(RuntimeMissingError, match=r"runtime\.gpus: 2 .*CUDA_VISIBLE_DEVICES="):
        container_settings(exposure, replace(LIMITS, gpus=2), {}, {}, user="1:2")
    assert "device_requests" not in container_settings(exposure, LIMITS, {}, {}, user="1:2")["host"]


def test_cores_are_as_asked_or_one_a_thread_but_no_more_than_there_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    assert cpu_limit(None, 2, 8) == 2.0
    assert cpu_limit(1.5, 2, 8) == 1.5
    assert caplog.text == ""
    assert cpu_limit(None, 64, 2) == 2.0
    assert cpu_limit(16.0, 1, 2) == 2.0
    assert "2 cores, all there are, not to 64" in caplog.text


def test_memory_is_as_asked_or_the_machines_less_a_reserve() -> None:
    assert memory_limit(0.5, 8 * GIB) == GIB // 2
    assert memory_limit(None, 8 * GIB) == 7 * GIB
    assert memory_limit(None, 100 * GIB) == 95 * GIB
    assert memory_limit(None, GIB) == GIB // 2
