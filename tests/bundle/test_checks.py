"""Which file is taken for which where names differ, and how soon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.bundle.checks import check_files
from appliance.bundle.inventory import Inventory

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
NAMES = st.sets(
    st.lists(st.sampled_from(["a", "A", "b"]), min_size=1, max_size=3).map("/".join), max_size=8
)


def findings_of(
    signed: Sequence[str], there: Sequence[str], empty_folders: Sequence[str] = ()
) -> list[tuple[str, str | None, str]]:
    """What is found where all these files are empty."""
    digests: Mapping[str, str] = dict.fromkeys(there, EMPTY)
    inventory = Inventory(
        digests=digests,
        size_bytes=0,
        kept={},
        empty_folders=tuple(empty_folders),
        file_modes={},
        folder_modes={},
        findings=(),
    )
    found = check_files(dict.fromkeys(signed, EMPTY), inventory)
    return [(finding.code, finding.path, finding.message) for finding in found]


def likeness(old: str, new: str) -> tuple[int, str]:
    if old.casefold() == new.casefold():
        return 0, new
    return (1 if old.rpartition("/")[2] == new.rpartition("/")[2] else 2), new


@given(NAMES, NAMES)
def test_of_several_files_with_the_same_bytes_the_one_most_alike_is_the_renamed_one(
    signed: set[str], there: set[str]
) -> None:
    left = sorted(there - signed)
    renamed = {}
    for old in sorted(signed - there):
        if left:
            renamed[old] = min(left, key=lambda new: likeness(old, new))
            left.remove(renamed[old])
    found = findings_of(sorted(signed), sorted(there))
    said = {path: text for code, path, text in found if code == "file-renamed"}
    assert said.keys() == renamed.keys()
    assert all(said[old].endswith(f"it is now {new}") for old, new in renamed.items())
    assert [path for code, path, _ in found if code == "file-extra"] == left


def test_an_empty_folder_belongs_only_above_a_signed_file() -> None:
    found = findings_of(["a/b/c", "a.x"], ["a/b/c", "a.x"], ["a", "a/b", "a/b/c", "a/", "A", "x"])
    extra = [path for code, path, _ in found if code == "folder-extra"]
    assert extra == ["a/b/c", "a/", "A", "x"]


@pytest.mark.timeout(60)
def test_thousands_of_renamed_files_and_empty_folders_take_no_longer_than_they_must() -> None:
    numbers = range(20_000)
    signed, there = ([f"{top}/{number}/x" for number in numbers] for top in "ab")
    found = findings_of(signed, there, [f"c/{number}" for number in numbers])
    codes = [code for code, _, _ in found]
    assert (codes.count("file-renamed"), codes.count("folder-extra")) == (20_000, 20_000)
