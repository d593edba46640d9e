from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.errors import StorageError
from appliance.files import (
    atomic_folder,
    copy_files,
    describe_os_error,
    read_json,
    write_atomic,
    write_json,
)


def test_a_failed_write_leaves_the_old_content_and_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.json"
    write_atomic(path, b"old")

    def full_disk(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(StorageError, match="disk is full"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]


def test_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None], "a": "ü"}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value


def test_not_a_number_is_refused_in_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_damaged_json_is_a_storage_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(StorageError, match="not valid JSON"):
        read_json(tmp_path / "x.json")


def test_an_exception_inside_an_atomic_folder_keeps_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with atomic_folder(target) as folder:
        (folder / "a").write_text("1")
    with pytest.raises(FileNotFoundError), atomic_folder(target) as folder:
        (folder / "missing" / "b").write_text("2")
    assert [path.name for path in target.iterdir()] == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("in_kernel", [True, False])
def test_a_copy_holds_the_same_bytes_and_is_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_kernel: bool
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    if not in_kernel:
        monkeypatch.setattr(os, "copy_file_range", refuse)
    data = b"data" * 600_000  # several pieces
    (tmp_path / "x").write_bytes(data)
    copy_files({"deep/y": tmp_path / "x"}, tmp_path / "target")
    copy = tmp_path / "target" / "deep" / "y"
    assert copy.read_bytes() == data
    copy.write_bytes(b"changed")
    assert (tmp_path / "x").read_bytes() == data
    with pytest.raises(StorageError, match="File exists"):
        copy_files({"deep/y": tmp_path / "x"}, tmp_path / "target")


def test_a_copy_that_ends_early_is_an_error(tmp_path: Path) -> None:
    """A disk may take the beginning of the last piece and not the rest."""
    (tmp_path / "x").write_bytes(b"data" * 1250)
    script = (
        "import errno, os, resource, signal, sys\n"
        "from pathlib import Path\n"
        "from appliance.files import copy_files\n"
        "def refuse(*_): raise OSError(errno.EXDEV, '')\n"
        "os.copy_file_range = refuse\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "copy_files({'y': Path(sys.argv[1], 'x')}, Path(sys.argv[1], 'target'))"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "StorageError" in done.stderr


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EACCES, "Permission is missing"),
        (errno.EROFS, "read-only"),
        (errno.ENOENT, "does not exist"),
    ],
)
def test_the_error_text_says_where_what_and_what_now(number: int, advice: str) -> None:
    text = describe_os_error(
        OSError(number, os.strerror(number)), Path("runs/x"), "writing the plan"
    )
    assert text.startswith("runs/x: ")
    assert "while writing the plan" in text
    assert advice in text
