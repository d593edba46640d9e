"""What is asked of ``nvidia-smi``, by a program that stands in for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.engine import gpus
from appliance.engine.gpus import GpuMissingError, handed_out, read_gpus
from tests.stand_in_gpus import A100, H100, list_gpus, put_on_path, write_nvidia_smi


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    write_nvidia_smi(folder, script)
    put_on_path(folder, monkeypatch)


def test_every_gpu_is_named_with_its_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, list_gpus(H100, A100))
    found = read_gpus()
    assert [(gpu.index, gpu.name, gpu.driver) for gpu in found] == [
        ("0", H100, "570.86.15"),
        ("1", A100, "570.86.15"),
    ]


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo 'Driver/library version mismatch' >&2; exit 18", "Driver/library version mismatch"),
        ("exit 0", "no GPU"),
        ("echo 'No devices were found'", "No devices were found"),
        ("exec sleep 20", "nvidia-smi hangs"),
    ],
)
def test_an_nvidia_smi_that_fails_says_so_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, found: str
) -> None:
    stand_in(tmp_path, monkeypatch, script)
    monkeypatch.setattr(gpus, "_TIMEOUT_S", 1 if "sleep" in script else 30)
    with pytest.raises(GpuMissingError) as caught:
        read_gpus()
    assert found in caught.value.found
    assert "driver" in caught.value.fix
    assert caught.value.exit_code == 31


def test_a_machine_without_nvidia_smi_has_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpus, "_DRIVER_FILE", tmp_path / "version")
    with pytest.raises(GpuMissingError, match=r"No NVIDIA driver.*container toolkit"):
        read_gpus()
    (tmp_path / "version").touch()
    with pytest.raises(GpuMissingError, match="utility capability"):
        read_gpus()


@pytest.mark.parametrize(
    ("visible", "count", "given"),
    [
        (None, 1, ["0"]),
        ("2", 1, ["2"]),
        ("2,0", 2, ["0", "2"]),
        ("2,1,0", 1, ["2"]),
        ("GPU-1000", 1, ["1"]),
    ],
)
def test_a_stage_is_given_the_callers_choice_or_the_first_ones(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    count: int,
    given: list[str],
) -> None:
    stand_in(tmp_path, monkeypatch, list_gpus(H100, A100, H100))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.index for gpu in handed_out(read_gpus(), count)] == given


@pytest.mark.parametrize(("visible", "count"), [("", 2), ("7", 1), ("-1", 1), ("0", 2)])
def test_more_gpus_than_can_be_had_are_refused_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str, count: int
) -> None:
    stand_in(tmp_path, monkeypatch, list_gpus(H100))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(GpuMissingError, match=rf"asks for {count} and can have [01].* shows 1"):
        handed_out(read_gpus(), count)


def test_a_part_of_a_gpu_is_named_by_its_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [
        f"GPU 0: {A100} (UUID: GPU-0000)",
        "  MIG 1g.5gb      Device  0: (UUID: MIG-aa)",
        "  MIG 3g.20gb     Device  1: (UUID: MIG-bb)",
    ]
    answers = "\n".join(f"echo '{line}'" for line in listed)
    script = f'if [ "$1" = -L ]; then\n{answers}\nexit\nfi\n{list_gpus(A100, mig="Enabled")}'
    stand_in(tmp_path, monkeypatch, script)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-bb")
    assert [gpu.name for gpu in read_gpus()] == [f"{A100} MIG 1g.5gb", f"{A100} MIG 3g.20gb"]
    assert [gpu.uuid for gpu in handed_out(read_gpus(), 1)] == ["MIG-bb"]
