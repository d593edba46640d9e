from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.doctor import containers, graphics, machine
from appliance.doctor.check import Check, Finding, Purpose, Result, Status, good, missing, note
from appliance.doctor.examine import examine, list_checks
from appliance.errors import SimulatorError
from appliance.simulator import frame
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
    assert "\n" not in results[2].finding.found


@pytest.mark.parametrize(
    ("purpose", "required"),
    [
        (Purpose.VERIFY, {"v"}),
        (Purpose.RUN, {"v", "r"}),
        (Purpose.DOCKER, {"v", "d"}),
        (Purpose.GPU, {"v", "r", "g"}),
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
    assert len({result.name for result in results}) == len(checks) == 15
    for result in results:
        assert result.finding.found
        assert result.finding.fix or result.finding.status is not Status.MISSING
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
    finding = graphics.look_at_gpu()
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


def test_one_frame_is_rendered_in_another_process() -> None:
    finding = graphics.look_at_frame()
    assert finding.status is Status.OK, finding
    assert "Mesa" in finding.found or "NVIDIA" in finding.found


def test_a_renderer_that_hangs_dies_or_is_not_there_is_told_in_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(frame, "FRAME_TIMEOUT_S", 0.05)
    with pytest.raises(SimulatorError, match=r"no picture within 0\.05 s"):
        frame.render_frame(0.05)
    dead = subprocess.CompletedProcess([], -11, stdout="", stderr="x\nSegmentation fault")
    with monkeypatch.context() as patch:
        patch.setattr("subprocess.run", lambda *arguments, **options: dead)
        with pytest.raises(SimulatorError, match=r"ended with code -11 .*Segmentation fault"):
            frame.render_frame()
    monkeypatch.setenv("VK_DRIVER_FILES", str(tmp_path / "none.json"))
    finding = graphics.look_at_frame()
    assert finding.status is Status.MISSING
    assert "No rendering device" in finding.found
