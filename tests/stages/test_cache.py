"""The cache shares nothing with a run folder that the code of a stage may write."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from appliance.files import read_json, storage_errors, write_json
from appliance.stages.cache import StageCache
from appliance.stages.receipt import (
    CHECKED_FILE,
    RECEIPT_FILE,
    Receipt,
    find_damage,
    read_receipt,
    seal_folder,
)

TIMES = {"started_utc": "1970-01-01T00:00:00+00:00", "seconds": 0.0}
NUMBERS = "artifacts/checkpoints/1/numbers"


@pytest.fixture
def cache(tmp_path: Path) -> StageCache:
    return StageCache(tmp_path / "cache")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "run" / "stages" / "train-1"


def finish(place: Path) -> Receipt:
    write_json(place / "content" / "said.json", {})
    (place / NUMBERS).parent.mkdir(parents=True)
    (place / NUMBERS).write_bytes(b"1234")
    return seal_folder(place, stage="train", key_parts={}, times=TIMES, host={})


def overwrite(path: Path, data: bytes) -> None:
    """Change a file's bytes in place, and give it back its size and times."""
    status = path.stat()
    with path.open("r+b") as stream:
        stream.write(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert [path.stat().st_size, path.stat().st_mtime_ns] == [status.st_size, status.st_mtime_ns]


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_a_file_changed_in_a_run_folder_is_changed_nowhere_else(
    cache: StageCache, place: Path, tmp_path: Path
) -> None:
    receipt = finish(place)
    cache.put("train", receipt.key, place)
    other = tmp_path / "other"
    assert cache.take("train", receipt.key, other)
    overwrite(place / NUMBERS, b"5678")
    assert (other / NUMBERS).read_bytes() == b"1234"
    assert cache.holds("train", receipt.key)
    overwrite(other / NUMBERS, b"5678")
    assert cache.take("train", receipt.key, tmp_path / "third")
    assert find_damage(tmp_path / "third", receipt) == []


def test_a_change_that_hides_behind_the_old_size_and_time_is_found(place: Path) -> None:
    receipt = finish(place)
    assert find_damage(place, receipt) == []
    overwrite(place / NUMBERS, b"5678")
    assert find_damage(place, receipt) == [f"{NUMBERS} (changed)"]


def test_a_result_is_read_again_when_it_is_taken_and_replaced_when_it_was_changed(
    cache: StageCache, place: Path, tmp_path: Path
) -> None:
    receipt = finish(place)
    cache.put("train", receipt.key, place)
    entry = tmp_path / "cache" / "train" / receipt.key
    overwrite(entry / NUMBERS, b"5678")
    status = (entry / NUMBERS).stat()
    checked = read_json(entry / CHECKED_FILE)
    checked[NUMBERS] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    write_json(entry / CHECKED_FILE, checked)
    assert cache.holds("train", receipt.key)  # the note says that it was looked at
    assert not cache.take("train", receipt.key, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    cache.put("train", receipt.key, place)
    assert cache.take("train", receipt.key, tmp_path / "target")


def test_only_what_the_receipt_lists_is_cached_and_taken(
    cache: StageCache, place: Path, tmp_path: Path
) -> None:
    receipt = finish(place)
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "secret").write_text("secret")
    (place / "content" / "keys").symlink_to(tmp_path / "keys")
    (place / "further").write_text("not of the result")
    cache.put("train", receipt.key, place)
    entry = tmp_path / "cache" / "train" / receipt.key
    listed = {*receipt.outputs, RECEIPT_FILE, CHECKED_FILE}
    assert files_below(entry) == listed
    (entry / "further").write_text("not of the result")
    assert cache.take("train", receipt.key, tmp_path / "target")
    assert files_below(tmp_path / "target") == listed
    assert read_receipt(tmp_path / "target") == receipt


def test_a_result_that_is_not_as_its_receipt_says_is_not_cached(
    cache: StageCache, place: Path
) -> None:
    receipt = finish(place)
    overwrite(place / NUMBERS, b"5678")
    cache.put("train", receipt.key, place)
    assert not cache.holds("train", receipt.key)


def test_a_result_for_whose_copy_there_is_no_room_is_kept_where_it_is(
    cache: StageCache,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fill(_: object, target: Path) -> None:
        with storage_errors(target, "copying"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    receipt = finish(place)
    monkeypatch.setattr("appliance.stages.cache.copy_files", fill)
    cache.put("train", receipt.key, place)
    assert "not kept for other runs" in caplog.text
    assert "disk is full" in caplog.text
    assert not cache.holds("train", receipt.key)
    assert find_damage(place, receipt) == []


@pytest.mark.parametrize(
    "field", ["stage", "key", "content_digest", "key_parts", "outputs", "times", "host"]
)
@pytest.mark.parametrize("value", [None, 5, [], True])
def test_a_receipt_of_other_types_is_none(place: Path, field: str, value: object) -> None:
    receipt = finish(place).to_dict()
    (place / RECEIPT_FILE).write_text(json.dumps({**receipt, field: value}))
    assert read_receipt(place) is None


@pytest.mark.parametrize(
    "outputs",
    [{"../../keys/secret": "0"}, {"/etc/passwd": "0"}, {"content/../../x": "0"}, {"x": "0"}, ["x"]],
)
def test_a_receipt_that_lists_a_file_elsewhere_is_none(place: Path, outputs: object) -> None:
    receipt = finish(place).to_dict()
    (place / RECEIPT_FILE).write_text(json.dumps({**receipt, "outputs": outputs}))
    assert read_receipt(place) is None


def test_copies_that_a_killed_process_left_are_removed_after_a_day(
    cache: StageCache, place: Path, tmp_path: Path
) -> None:
    receipt = finish(place)
    for name in (".place.old.tmp", ".place.new.tmp"):
        (tmp_path / "cache" / "train" / name).mkdir(parents=True)
    os.utime(tmp_path / "cache" / "train" / ".place.old.tmp", (0, 0))
    cache.put("train", receipt.key, place)
    left = {path.name for path in (tmp_path / "cache" / "train").iterdir()}
    assert left == {".place.new.tmp", receipt.key}
