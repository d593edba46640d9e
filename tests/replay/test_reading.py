"""What a stranger's result says is read up to a limit, and as plain JSON only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.errors import StorageError
from appliance.replay import reading
from appliance.replay.facts import read_facts, read_stage_facts
from appliance.replay.reading import Reader, read_object
from appliance.replay.results import open_result
from tests.conftest import DATASET, Appliance
from tests.replay.conftest import STEPS

Change = Callable[[Callable[[Path], None]], Path]
DATASET_FILE = "dataset/dataset.json"

ODD = {
    "deep lists": '"zz": ' + "[" * 400 + "]" * 400,
    "deep objects": '"zz": ' + '{"a":' * 400 + "1" + "}" * 400,
    "a number without end": '"zz": 1e999',
    "no number": '"zz": NaN',
    "half a character": r'"zz": "\ud800"',
    "half a character in a name": r'"\ud800": 1',
    "more values than any run has": '"zz": [' + "{}," * 2_000_000 + "0]",
}


def add(text: str) -> Callable[[Path], None]:
    """Put another member into the facts of the dataset."""

    def change(content: Path) -> None:
        path = content / DATASET_FILE
        path.write_text(path.read_text().rstrip()[:-1].rstrip() + f", {text}}}\n")

    return change


@pytest.mark.parametrize("kind", ODD)
def test_what_could_not_be_written_again_is_refused_by_replay_and_diff(
    original: Path, changed_bundle: Change, appliance: Appliance, tmp_path: Path, kind: str
) -> None:
    bundle = changed_bundle(add(ODD[kind]))
    options = ("--level", "R1", "--dataset-root", DATASET, "--key-dir", tmp_path / "keys")
    replay = ("replay", bundle, *options, "--work-dir", tmp_path / "work")
    for command in (replay, ("diff", bundle, original / "bundle")):
        outcome = appliance(*command)
        assert outcome.code == 30, outcome.err
        assert DATASET_FILE in outcome.err


def test_a_limit_is_over_all_files_of_a_result(
    original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_all() -> int:
        with open_result(original / "bundle") as result:
            return len(read_facts(result)["train"]["steps"])

    needed = reading.MAX_RESULT_VALUES - _left_after_all(original)
    largest = max(path.stat().st_size for path in (original / "content").rglob("*.json*"))
    monkeypatch.setattr(reading, "MAX_RESULT_VALUES", needed)
    assert read_all() == STEPS
    monkeypatch.setattr(reading, "MAX_RESULT_VALUES", needed - 1)
    with pytest.raises(StorageError, match="holds more JSON than is read"):
        read_all()
    monkeypatch.setattr(reading, "MAX_RESULT_VALUES", needed)
    monkeypatch.setattr(reading, "MAX_RESULT_BYTES", largest)
    with pytest.raises(StorageError, match="holds more JSON than is read"):
        read_all()


def test_what_is_the_users_own_is_read_whole(
    original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_RESULT_VALUES", 10)
    monkeypatch.setattr(reading, "MAX_RESULT_BYTES", 10)
    content = original / "content" / "train"
    assert len(read_stage_facts("train", content)["steps"]) == STEPS


def _left_after_all(original: Path) -> int:
    with open_result(original / "bundle") as result:
        read_facts(result)
        return result.reader._values_left


def test_lines_are_read_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert Reader().read_rows(path) == []
    assert read_object(path) == {}
    path.write_bytes(b'{"a": 1}\n\n{"b": "\xc3\xa9\\r"}\r\n{}')
    assert Reader().read_rows(path) == [{"a": 1}, {"b": "\u00e9\r"}, {}]
    for last in (b"1\n" * 5, b"{", b"\xff"):
        path.write_bytes(b"{}\n" + last)
        with pytest.raises(StorageError, match="a line is not"):
            Reader().read_rows(path)
    path.write_text(json.dumps([{}]))
    with pytest.raises(StorageError, match="not a JSON object"):
        read_object(path)
