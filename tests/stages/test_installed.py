from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import os
import sys
from pathlib import Path

import pytest

from appliance.digest import sha256_bytes, tree_digest
from appliance.stages.installed import KnownDigests, examine_files, write_environment


def install(site: Path, files: dict[str, bytes], *, name: str = "demo-thing") -> None:
    """A distribution as an installer leaves it: files, METADATA and RECORD."""
    folder = f"{name.replace('-', '_')}-1.2.dist-info"
    held = {**files, f"{folder}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n"}
    rows = []
    for path, data in held.items():
        content = data if isinstance(data, bytes) else data.encode()
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(content)}")
    rows += ["../../bin/demo,sha256=AAAA,1", "demo/__pycache__/a.pyc,,", f"{folder}/RECORD,,"]
    (site / folder / "RECORD").write_text("\n".join(rows) + "\n")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site-packages"
    install(folder, {"demo/a.py": b"a = 1\n", "demo/b.py": b"b = 2\n"})
    return folder


def the_distribution(site: Path) -> importlib.metadata.Distribution:
    return next(iter(importlib.metadata.distributions(path=[str(site)])))


def test_untouched_files_agree_with_their_record(site: Path) -> None:
    found = examine_files(the_distribution(site), KnownDigests(None))
    assert found.digests["demo/a.py"] == sha256_bytes(b"a = 1\n")
    assert set(found.digests) == {"demo/a.py", "demo/b.py", "demo_thing-1.2.dist-info/METADATA"}
    assert (found.differing, found.missing) == ({}, ())
    record = (site / "demo_thing-1.2.dist-info" / "RECORD").read_bytes()
    assert found.record_sha256 == sha256_bytes(record)


def test_an_edited_file_is_listed_with_its_true_digest_and_a_removed_one_is_counted(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs is then not what the lock says."""
    (site / "demo" / "a.py").write_bytes(b"a = 3\n")
    (site / "demo" / "b.py").unlink()
    found = examine_files(the_distribution(site), KnownDigests(None))
    assert found.differing == {"demo/a.py": sha256_bytes(b"a = 3\n")}
    assert found.missing == ("demo/b.py",)
    monkeypatch.setattr(sys, "path", [str(site)])
    write_environment(tmp_path / "bom.json", ["Demo_Thing"], tmp_path / "scratch")
    bom = json.loads((tmp_path / "bom.json").read_bytes())
    (component,) = [item for item in bom["components"] if item["name"] == "demo-thing"]
    assert component["components"] == [
        {
            "type": "file",
            "name": "demo/a.py",
            "hashes": [{"alg": "SHA-256", "content": sha256_bytes(b"a = 3\n")}],
        }
    ]
    facts = {item["name"].rpartition(":")[2]: item["value"] for item in component["properties"]}
    assert facts["installed-files-digest"] == tree_digest(found.digests)
    assert facts["installed-files-missing"] == "1"


def test_a_second_process_knows_what_did_not_change_and_sees_what_did(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = KnownDigests(tmp_path / "known.json")
    first = examine_files(the_distribution(site), known)
    known.save()
    from appliance.stages import installed

    read: list[str] = []
    real = installed.sha256_file

    def count(path: Path) -> str:
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(installed, "sha256_file", count)
    again = examine_files(the_distribution(site), KnownDigests(tmp_path / "known.json"))
    assert again == first
    assert read == []
    path, before = site / "demo" / "a.py", (site / "demo" / "a.py").stat()
    path.write_bytes(b"a = 9\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # size and time as they were
    changed = examine_files(the_distribution(site), KnownDigests(tmp_path / "known.json"))
    assert changed.differing == {"demo/a.py": sha256_bytes(b"a = 9\n")}
    assert read == ["a.py"]


@pytest.mark.parametrize("text", ["", "null", "[]", '{"x": 1}', "{"])
def test_a_spoiled_memory_only_costs_time(site: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "known.json"
    path.write_text(text)
    known = KnownDigests(path)
    assert examine_files(the_distribution(site), known).differing == {}
    known.save()
    assert json.loads(path.read_text())
