from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from appliance.bundle.archive import pack_bundle, unpack_bundle
from appliance.bundle.assemble import (
    BundleSources,
    _encode_payload,
    collect_files,
    list_dependencies,
    write_bundle,
)
from appliance.bundle.bounds import MAX_ATTESTATION_BYTES
from appliance.bundle.dsse import IN_TOTO_PAYLOAD_TYPE, sign_envelope
from appliance.bundle.keys import load_key, load_or_create_key
from appliance.bundle.layout import (
    BundleContentError,
    content_digest,
    describe_name_fault,
    find_name_clashes,
)
from appliance.bundle.sigstore import decode_attestation, encode_attestation
from appliance.bundle.statement import RunMetadata, decode_statement
from appliance.bundle.verify import verify_bundle
from appliance.digest import digest_files, tree_digest
from appliance.errors import StorageError
from appliance.manifest.schema import schema_at
from tests.bundle.sample import (
    FINGERPRINT,
    LOCK,
    MANIFEST,
    content_files,
    make_bundle,
    observed_files,
)


def read_all(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in digest_files(folder)}


def test_content_digest_is_that_of_the_content_and_of_nothing_else(tmp_path: Path) -> None:
    first = make_bundle(tmp_path, name="first")
    metadata = RunMetadata(invocation_id="x", started_on="2026-01-01T00:00:00Z")
    second = make_bundle(
        tmp_path, name="second", observed=observed_files("second"), metadata=metadata
    )
    assert first.content_digest == second.content_digest
    assert first.content_digest == tree_digest(digest_files(tmp_path / "first" / "content"))
    assert first.attestation_sha256 != second.attestation_sha256


def test_one_changed_content_byte_changes_the_content_digest(tmp_path: Path) -> None:
    changed = content_files()
    changed["train/hash_chain.jsonl"] = changed["train/hash_chain.jsonl"].replace(b"1", b"2")
    first = make_bundle(tmp_path, name="first")
    assert first.content_digest != make_bundle(tmp_path, name="b", content=changed).content_digest


def test_equal_input_gives_equal_bytes_signature_included(tmp_path: Path) -> None:
    make_bundle(tmp_path, name="a")
    make_bundle(tmp_path, name="b")
    assert read_all(tmp_path / "a") == read_all(tmp_path / "b")


def test_statement_lists_every_file_but_itself_and_says_no_more_than_it_knows(
    pristine: Path,
) -> None:
    data = (pristine / "bundle" / "attestation.sigstore.json").read_bytes()
    envelope = decode_attestation(data)
    statement = decode_statement(envelope)
    expected = digest_files(pristine / "bundle")
    del expected["attestation.sigstore.json"]
    assert statement.subjects == expected
    value = json.loads(envelope.payload)
    assert [entry["name"] for entry in value["subject"]] == sorted(expected)
    assert value["_type"] == "https://in-toto.io/Statement/v1"
    assert value["predicateType"] == "https://slsa.dev/provenance/v1"
    definition = value["predicate"]["buildDefinition"]
    assert definition["externalParameters"] == {"manifest": MANIFEST}
    dataset = next(
        item for item in definition["resolvedDependencies"] if item["name"] == "dataset fingerprint"
    )
    assert dataset["digest"] == {"sha256_content_v1": "ab" * 32}
    assert "local-key" in value["predicate"]["runDetails"]["builder"]["id"]
    assert value["predicate"]["runDetails"]["metadata"] == {}


def test_dependencies_are_the_lock_the_dataset_the_packages_and_our_source() -> None:
    found = {item.name: item for item in list_dependencies(LOCK)}
    assert set(found) == {"lock", "dataset fingerprint", "numpy", "appliance plan"}
    assert found["numpy"].uri == "pkg:pypi/numpy@2.2.6"
    assert found["dataset fingerprint"].digest == FINGERPRINT
    assert [item.name for item in list_dependencies({})] == ["lock"]


def test_files_are_copied_so_that_a_later_change_of_the_run_folder_does_not_reach_them(
    tmp_path: Path,
) -> None:
    make_bundle(tmp_path)
    for path in (tmp_path / "bundle-sources").rglob("*"):
        if path.is_file():
            path.chmod(0o755)
            with path.open("ab") as stream:
                stream.write(b"more")
    report = verify_bundle(tmp_path / "bundle", key_dir=tmp_path / "keys")
    assert report.trusted
    assert report.findings == ()


def test_bundle_that_cannot_be_finished_leaves_the_old_one_and_nothing_else(
    tmp_path: Path,
) -> None:
    make_bundle(tmp_path)
    before = read_all(tmp_path / "bundle")
    with pytest.raises(BundleContentError, match="cannot be signed"):
        make_bundle(tmp_path, manifest={"seed": 2**60})
    assert read_all(tmp_path / "bundle") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bundle",
        "bundle-sources",
        "keys",
    ]


@pytest.mark.parametrize("mask", [0o002, 0o077])
def test_modes_are_those_that_are_signed_whatever_the_umask_is(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        made = make_bundle(tmp_path).path
        pack_bundle(made, tmp_path / "a.tar.gz")
        unpack_bundle(tmp_path / "a.tar.gz", tmp_path / "unpacked")
    finally:
        os.umask(before)
    for folder in (made, tmp_path / "unpacked"):
        assert verify_bundle(folder, key_dir=tmp_path / "keys").findings == ()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_bundle_is_replaced_whole(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    make_bundle(tmp_path, observed={"only.txt": b"x"})
    assert verify_bundle(tmp_path / "bundle", key_dir=tmp_path / "keys").trusted
    assert not (tmp_path / "bundle" / "observed" / "train").exists()


def test_bundle_without_content_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleContentError, match="no content"):
        make_bundle(tmp_path, content={})
    assert not (tmp_path / "bundle").exists()


def write_one_file(place: Path, source: Path, keys: Path) -> None:
    sources = BundleSources(name="x", content={"a": source}, observed={}, manifest={}, lock={})
    write_bundle(place, sources, load_key(keys))


def test_unwritable_place_is_a_storage_error(tmp_path: Path, pristine: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    source = pristine / "bundle" / "bundle.json"
    with pytest.raises(StorageError, match="writing the bundle"):
        write_one_file(tmp_path / "file" / "bundle", source, pristine / "keys")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "../a",
        "a/../b",
        "./a",
        "a\\b",
        "a:b",
        "a\nb",
        "ä",
        "a ",
        " a",
        "a.",
        "a/b./c",
        "con?",
        "x" * 201,
        "a/" * 500 + "a",
    ],
)
def test_unsafe_name_is_refused(name: str) -> None:
    assert describe_name_fault(name)


@pytest.mark.parametrize("name", ["a", "a b/c-d_e.f", ".hidden/x", "_metrics.json", "a+b=c@d,e"])
def test_ordinary_name_is_accepted(name: str) -> None:
    assert describe_name_fault(name) is None


def test_unsafe_source_names_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(BundleContentError, match="cannot go into the bundle"):
        make_bundle(tmp_path, content={"ok": b"", "bad:name": b""})
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("names", "clashes"),
    [
        (["a", "b", "a1/b"], 0),
        (["a", "A"], 1),
        (["x/a", "X/b"], 1),
        (["x/a", "x/A/b"], 1),
        (["x", "x/a"], 1),
        (["x/a/b", "x/a"], 1),
    ],
)
def test_names_that_a_case_folding_file_system_confuses_are_found(
    names: list[str], clashes: int
) -> None:
    assert len(find_name_clashes(names)) == clashes
    assert len(find_name_clashes(names[::-1])) == clashes


def test_statement_over_the_longest_evaluation_with_its_videos_can_be_signed(
    tmp_path: Path,
) -> None:
    """And over five thousand other files, such as those of checkpoints."""
    episodes = schema_at(("eval", "episodes"))["maximum"]
    names = [f"observed/evaluate/videos/episode{number}.mp4" for number in range(episodes)]
    names += [f"artifacts/train/checkpoints/{n:05}/{'x' * 60}" for n in range(5000)]
    sources = BundleSources(name="x", content={}, observed={}, manifest=MANIFEST, lock=LOCK)
    digests = dict.fromkeys(names, "ab" * 32)
    payload = _encode_payload(digests, FINGERPRINT, sources)
    envelope = sign_envelope(payload, IN_TOTO_PAYLOAD_TYPE, load_or_create_key(tmp_path))
    assert len(encode_attestation(envelope)) < MAX_ATTESTATION_BYTES
    assert decode_statement(envelope).subjects == digests


def test_links_and_special_files_do_not_go_into_a_bundle(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    folder.mkdir()
    (folder / "a").write_bytes(b"a")
    assert collect_files(folder, "stage") == {"stage/a": folder / "a"}
    assert collect_files(tmp_path / "none", "stage") == {}
    (folder / "link").symlink_to(folder / "a")
    with pytest.raises(StorageError, match="link"):
        collect_files(folder, "stage")
    os.mkfifo(folder / "pipe")
    (folder / "link").unlink()
    with pytest.raises(StorageError, match="pipe"):
        collect_files(folder, "stage")
    (tmp_path / "none").symlink_to(tmp_path)
    (tmp_path / "gone").symlink_to("nowhere")
    for name in ("none", "gone"):
        with pytest.raises(StorageError, match=name):
            collect_files(tmp_path / name, "stage")


def test_link_given_as_a_source_is_refused(tmp_path: Path, pristine: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(pristine / "bundle" / "bundle.json")
    for source in (link, tmp_path / "missing", tmp_path):
        with pytest.raises(BundleContentError, match="not a regular file"):
            write_one_file(tmp_path / "bundle", source, pristine / "keys")


def test_content_digest_ignores_files_beside_the_content() -> None:
    assert content_digest({"content/a": "1", "observed/b": "2", "c": "3"}) == tree_digest(
        {"a": "1"}
    )
