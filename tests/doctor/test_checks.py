from __future__ import annotations

import importlib.metadata
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.doctor import containers, gpus, graphics, machine
from appliance.doctor.check import (
    NEEDS,
    Check,
    Finding,
    Purpose,
    Result,
    Status,
    good,
    missing,
    note,
)
from appliance.doctor.examine import examine, list_checks
from appliance.engine import probe
from appliance.errors import SimulatorError
from appliance.simulator import frame
from tests.doctor.stand_in_daemon import stand_in_daemon
from tests.stand_in_gpus import H100, list_gpus, put_on_path, write_nvidia_smi


def test_a_check_that_fails_itself_is_a_finding_and_not_the_end() -> None:
    def fail(error: Exception) -> Callable[[], Finding]:
        def look() -> Finding:
            raise error

        return look

    errors = [OSError(5, "Input/output error"), ValueError("odd"), SimulatorError("no device\nx")]
    checks = tuple(
        Check(name=str(number), needed_for=frozenset({Purpose.RUN}), look=fail(error))
        for number, error in enumerate(errors)
    )
    results = list(examine(checks, Purpose.RUN))
    assert [result.is_fatal for result in results] == [True] * 3
    assert results[0].finding.fix
    assert results[2].finding.found == "no device x"
    assert results[2].finding.fix is None  # an error of ours says itself what to do


@pytest.mark.parametrize(
    ("purpose", "required"),
    [
        (Purpose.VERIFY, {"v"}),
        (Purpose.RUN, {"v", "r"}),
        (Purpose.DOCKER, {"v", "d"}),
        (Purpose.GPU, {"v", "d", "g"}),
    ],
)
def test_only_what_the_purpose_needs_is_fatal(purpose: Purpose, required: set[str]) -> None:
    needs = {"v": Purpose.VERIFY, "r": Purpose.RUN, "d": Purpose.DOCKER, "g": Purpose.GPU}
    checks = tuple(
        Check(name=name, needed_for=frozenset({need}), look=lambda: missing("x", "y"))
        for name, need in needs.items()
    )
    assert {result.name for result in examine(checks, purpose) if result.is_fatal} == required


def test_a_note_is_never_fatal() -> None:
    for finding in (note("x"), good("x")):
        assert not Result(name="x", required=True, finding=finding).is_fatal


def test_every_check_has_a_fix_where_something_is_missing(tmp_path: Path) -> None:
    checks = [
        check
        for check in list_checks(run_dir=tmp_path, key_dir=tmp_path / "keys")
        if check.name != "one frame"
    ]
    results = list(examine(tuple(checks), Purpose.RUN))
    assert len({result.name for result in results}) == len(checks) == 17
    for result in results:
        assert result.finding.found
        assert result.finding.fix or result.finding.status is not Status.MISSING
        assert " python " not in (result.finding.fix or "")  # which one must be said
    assert not (tmp_path / "keys").exists()


def test_a_full_disk_and_one_that_cannot_be_written_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = type("usage", (), {"free": machine.LEAST_DISK_BYTES - 1})
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage)
    assert machine.look_at_disk(tmp_path / "not" / "yet")().status is Status.MISSING
    usage.free = machine.LEAST_DISK_BYTES
    assert machine.look_at_disk(tmp_path)().status is Status.NOTE
    usage.free = machine.GOOD_DISK_BYTES
    assert machine.look_at_disk(tmp_path)().status is Status.OK
    monkeypatch.setattr("os.access", lambda place, mode: False)
    assert "cannot be written" in machine.look_at_disk(tmp_path)().found


def test_a_containers_memory_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_container_limit", lambda: machine.GIB)
    finding = machine.look_at_memory()
    assert finding.status is Status.MISSING
    assert finding.found == "1.0 GiB (container's limit)"
    monkeypatch.setattr(machine, "_container_limit", lambda: 4 * machine.GIB)
    assert machine.look_at_memory().status is Status.NOTE


def test_a_clock_before_the_installation_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert machine.look_at_clock().status in (Status.OK, Status.NOTE)
    later = tmp_path / "__init__.py"
    later.touch()
    os.utime(later, (4e9, 4e9))
    monkeypatch.setattr("appliance.__file__", str(later))
    assert "before this program was installed" in machine.look_at_clock().found


def test_packages_that_are_not_installed_are_named() -> None:
    finding = machine.look_at_packages(("numpy", "no-such-package", "nor-this"))
    assert finding.status is Status.MISSING
    assert finding.found == "not installed: no-such-package, nor-this"
    assert machine.look_at_packages(("numpy",)).status is Status.OK


def test_a_key_others_can_read_is_missing_and_none_is_no_fault(tmp_path: Path) -> None:
    look = machine.look_at_key(tmp_path / "keys")
    assert look().found.startswith("none yet")
    from appliance.bundle.keys import create_key

    create_key(tmp_path / "keys")
    assert look().status is Status.OK
    path = tmp_path / "keys" / machine.PRIVATE_KEY_FILE
    path.chmod(path.stat().st_mode | stat.S_IROTH)
    check = Check(name="key", needed_for=frozenset({Purpose.RUN}), look=look)
    (result,) = examine((check,), Purpose.RUN)
    assert result.is_fatal
    assert "chmod 600" in result.finding.found
    assert result.finding.fix is None


def write_icd(path: Path, library: str) -> Path:
    path.write_text(json.dumps({"ICD": {"library_path": library}}))
    return path


def test_driver_files_that_name_nothing_are_found_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    there = tmp_path / "libthere.so"
    there.touch()
    fine = write_icd(tmp_path / "fine.json", str(there))
    lost = write_icd(tmp_path / "lost.json", str(tmp_path / "libgone.so"))
    odd = tmp_path / "odd.json"
    odd.write_text("[]")
    for named, status, text in (
        ([fine], Status.OK, "fine.json"),
        ([fine, lost], Status.NOTE, "which is not there"),
        ([lost], Status.MISSING, "which is not there"),
        ([odd], Status.MISSING, "cannot be read"),
        ([write_icd(tmp_path / "short.json", "libno-such-driver.so")], Status.MISSING, "not found"),
        ([tmp_path / "none.json"], Status.MISSING, "named by VK_DRIVER_FILES"),
    ):
        monkeypatch.setenv("VK_DRIVER_FILES", os.pathsep.join(map(str, named)))
        finding = graphics.look_at_vulkan_drivers()
        assert (finding.status, text in finding.found) == (status, True), finding
        if status is Status.MISSING:  # a driver fetched into the cache would not be looked at
            assert (finding.fix or "").startswith("`unset VK_DRIVER_FILES`")
    monkeypatch.delenv("VK_DRIVER_FILES")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(graphics, "ICD_FOLDERS", ())
    finding = graphics.look_at_vulkan_drivers()
    assert finding.status is Status.MISSING
    assert f"run `{sys.executable} -m appliance.simulator.mesa`" in (finding.fix or "")


@pytest.mark.parametrize(
    ("program", "status", "text"),
    [
        (list_gpus(H100), Status.OK, f"{H100}, driver 570.86.15, 81559 MiB"),
        ("echo 'Driver/library version mismatch'; exit 18", Status.MISSING, "version mismatch"),
    ],
)
def test_what_nvidia_smi_says_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, status: Status, text: str
) -> None:
    write_nvidia_smi(tmp_path, program)
    put_on_path(tmp_path, monkeypatch)
    finding = gpus.look_at_driver()
    assert finding.status is status
    assert text in finding.found
    assert (finding.fix is None) == (status is Status.OK)


def test_an_engine_that_does_not_answer_is_missing_with_the_fix(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    finding = containers.look_at_engine()
    assert finding.status is Status.MISSING
    assert "docker.io" in (finding.fix or "")
    assert containers.look_at_gpu_runtime().status is Status.NOTE
    assert containers.look_at_image_disk().status is Status.NOTE


def test_an_image_needs_room_where_the_daemon_keeps_images(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = type("usage", (), {"free": containers.BUILD_DISK_BYTES - 1})
    monkeypatch.setattr("shutil.disk_usage", lambda place: {tmp_path / "data": usage}[place])
    (tmp_path / "data").mkdir()
    info = {"DockerRootDir": str(tmp_path / "data")}
    for tags, free, status in (
        (["debian:12"], containers.BUILD_DISK_BYTES - 1, Status.MISSING),
        (["plan-star-appliance:cpu"], containers.BUILD_DISK_BYTES - 1, Status.NOTE),
        ([], containers.BUILD_DISK_BYTES, Status.OK),
    ):
        usage.free = free
        with stand_in_daemon(tmp_path, info, *tags) as address:
            monkeypatch.setenv("DOCKER_HOST", address)
            finding = containers.look_at_image_disk()
        assert finding.status is status, finding
        assert f"free at {tmp_path / 'data'}" in finding.found
    with stand_in_daemon(tmp_path, {"DockerRootDir": str(tmp_path / "elsewhere")}) as address:
        monkeypatch.setenv("DOCKER_HOST", address)
        assert "cannot be seen from here" in containers.look_at_image_disk().found


def test_room_is_looked_for_where_containerd_keeps_the_images(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(probe, "CONTAINERD_DIR", tmp_path / "containerd")
    room = {"data": containers.BUILD_DISK_BYTES, "containerd": 0}
    for name in room:
        (tmp_path / name).mkdir()
    monkeypatch.setattr(
        "shutil.disk_usage", lambda place: type("usage", (), {"free": room[place.name]})
    )
    store = [["driver-type", "io.containerd.snapshotter.v1"]]
    for status, name in (([["Backing Filesystem", "extfs"]], "data"), (store, "containerd")):
        info = {"DockerRootDir": str(tmp_path / "data"), "DriverStatus": status}
        with stand_in_daemon(tmp_path, info) as address:
            monkeypatch.setenv("DOCKER_HOST", address)
            assert f"free at {tmp_path / name}" in containers.look_at_image_disk().found
    (tmp_path / "containerd").rmdir()
    with stand_in_daemon(tmp_path, info) as address:
        monkeypatch.setenv("DOCKER_HOST", address)
        assert f"free at {tmp_path / 'data'}" in containers.look_at_image_disk().found


def test_an_engine_that_gives_ids_in_another_way_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for option, words in (("name=rootless", "overlay2, rootless"), ("name=cgroupns", "overlay2")):
        with stand_in_daemon(tmp_path, {"SecurityOptions": [option]}) as address:
            monkeypatch.setenv("DOCKER_HOST", address)
            assert containers.look_at_engine() == good(f"Docker 20.10.24, {words}")
    check = Check(
        name="engine",
        needed_for=frozenset({Purpose.DOCKER}),
        look=containers.look_at_engine,
    )
    with stand_in_daemon(tmp_path, {"SecurityOptions": ["name=userns"]}) as address:
        monkeypatch.setenv("DOCKER_HOST", address)
        (result,) = examine((check,), Purpose.DOCKER)
    assert result.is_fatal
    assert "userns-remap" in result.finding.found


def test_an_engine_that_hands_out_no_gpus_is_missing_what_gpus_need(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for runtimes, status in ((["runc"], Status.MISSING), (["nvidia", "runc"], Status.OK)):
        info = {"Runtimes": {name: {} for name in runtimes}}
        with stand_in_daemon(tmp_path, info) as address:
            monkeypatch.setenv("DOCKER_HOST", address)
            finding = containers.look_at_gpu_runtime()
        assert finding.status is status, finding
    (tmp_path / containers.GPU_HOOK).touch(0o755)
    with stand_in_daemon(tmp_path, {}) as address:
        monkeypatch.setenv("DOCKER_HOST", address)
        assert containers.look_at_gpu_runtime().status is Status.OK


def test_gpus_need_the_container_engine_and_no_software_renderer(tmp_path: Path) -> None:
    needed = {
        check.name
        for check in list_checks(run_dir=tmp_path, key_dir=None)
        if NEEDS[Purpose.GPU] & check.needed_for
    }
    assert {"gpu driver", "gpu graphics", "gpu runtime", "container engine"} <= needed
    assert needed.isdisjoint({"one frame", "packages", "vulkan drivers", "jax on gpu"})


def test_jax_without_its_cuda_plugin_is_told_and_one_of_another_version_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = {"jax": "0.10.2"}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr("importlib.metadata.version", version)
    assert "no jax-cuda12-plugin" in gpus.look_at_jax_plugin().found
    installed |= dict.fromkeys(gpus.JAX_PLUGINS, "0.10.1")
    assert "different versions" in gpus.look_at_jax_plugin().found
    installed |= dict.fromkeys(gpus.JAX_PLUGINS, "0.10.2")
    assert gpus.look_at_jax_plugin().status is Status.OK


def test_one_frame_is_rendered_in_another_process() -> None:
    finding = graphics.look_at_frame()
    assert finding.status is Status.OK, finding
    assert "Mesa" in finding.found or "NVIDIA" in finding.found


def test_a_picture_drawn_in_software_beside_a_gpu_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn = frame.Frame(device="llvmpipe, Mesa 25.0.7", is_gpu=False, seconds=1.0)
    monkeypatch.setattr(graphics, "render_frame", lambda: drawn)
    write_nvidia_smi(tmp_path, list_gpus(H100))
    put_on_path(tmp_path, monkeypatch)
    finding = graphics.look_at_frame()
    assert finding.status is Status.NOTE
    assert "drawn in software" in finding.found
    monkeypatch.setattr(graphics, "render_frame", lambda: replace(drawn, is_gpu=True))
    assert graphics.look_at_frame().status is Status.OK


def test_a_renderer_that_hangs_dies_or_is_not_there_is_told_in_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(SimulatorError, match=r"no picture within 0\.05 s"):
        frame.render_frame(0.05)
    with monkeypatch.context() as patch:
        patch.setattr(graphics, "render_frame", lambda: frame.render_frame(0.05))
        finding = graphics.look_at_frame()
        assert finding.found == "Rendering hung: no picture within 0.05 s"
        assert finding.fix == graphics.HUNG_FIX
    dead = subprocess.CompletedProcess([], -11, stdout="", stderr="x\nSegmentation fault")
    with monkeypatch.context() as patch:
        patch.setattr("subprocess.run", lambda *arguments, **options: dead)
        with pytest.raises(SimulatorError, match=r"ended with code -11 .*Segmentation fault"):
            frame.render_frame()
    monkeypatch.setenv("VK_DRIVER_FILES", str(tmp_path / "none.json"))
    finding = graphics.look_at_frame()
    assert finding.status is Status.MISSING
    assert "No rendering device" in finding.found
    assert (finding.fix or "").startswith("`unset VK_DRIVER_FILES`")
