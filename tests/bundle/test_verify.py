from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle.describe import format_report, report_to_dict
from appliance.bundle.dsse import IN_TOTO_PAYLOAD_TYPE, sign_envelope
from appliance.bundle.findings import Severity, Verdict, VerifyReport
from appliance.bundle.keys import PUBLIC_KEY_FILE, load_key, load_or_create_key, trust_key
from appliance.bundle.sigstore import encode_attestation
from appliance.bundle.verify import Expected, verify_bundle
from appliance.errors import SigningKeyError
from tests.bundle.sample import MANIFEST, PLAN_SHA256, content_files, make_bundle

ATTESTATION = "attestation.sigstore.json"


def errors(report: VerifyReport) -> set[tuple[str, str | None]]:
    return {
        (finding.code, finding.path)
        for finding in report.findings
        if finding.severity is Severity.ERROR
    }


def check(bundle: Path, pristine: Path) -> VerifyReport:
    report = verify_bundle(bundle, key_dir=pristine / "keys")
    format_report(report)
    json.dumps(report_to_dict(report))
    return report


def resign(bundle: Path, keys: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Sign an edited statement with the keys given, as a dishonest signer would."""
    path = bundle / ATTESTATION
    payload = base64.b64decode(json.loads(path.read_bytes())["dsseEnvelope"]["payload"])
    statement = json.loads(payload)
    edit(statement)
    data = json.dumps(statement).encode()
    path.write_bytes(encode_attestation(sign_envelope(data, IN_TOTO_PAYLOAD_TYPE, load_key(keys))))


# -- verdicts


def test_untouched_bundle_of_the_own_key_is_intact_and_trusted(pristine: Path) -> None:
    report = check(pristine / "bundle", pristine)
    assert report.verdict is Verdict.TRUSTED
    assert report.findings == ()
    assert (report.exit_code, report.intact, report.trusted) == (0, True, True)
    assert report.checks["files"] == 29


def test_without_a_trusted_key_it_is_intact_but_of_unknown_origin(
    pristine: Path, tmp_path: Path
) -> None:
    report = verify_bundle(pristine / "bundle", key_dir=tmp_path / "none")
    assert report.verdict is Verdict.UNKNOWN_ORIGIN
    assert (report.exit_code, report.intact, report.trusted) == (22, True, False)
    assert [finding.code for finding in report.findings] == ["origin-unknown"]
    assert not (tmp_path / "none").exists()


def test_key_given_or_trusted_makes_the_origin_known(pristine: Path, tmp_path: Path) -> None:
    key = pristine / "keys" / PUBLIC_KEY_FILE
    assert verify_bundle(pristine / "bundle", public_key=key, key_dir=tmp_path).trusted
    trust_key(key, tmp_path / "keys")
    assert verify_bundle(pristine / "bundle", key_dir=tmp_path / "keys").trusted
    trusted = tmp_path / "keys" / "trusted"
    assert verify_bundle(pristine / "bundle", key_dir=tmp_path / "x", trust_dir=trusted).trusted


def test_given_key_is_the_only_one_trusted(pristine: Path, tmp_path: Path) -> None:
    load_or_create_key(tmp_path / "keys")
    report = verify_bundle(
        pristine / "bundle",
        public_key=tmp_path / "keys" / PUBLIC_KEY_FILE,
        key_dir=pristine / "keys",
    )
    assert report.verdict is Verdict.UNKNOWN_ORIGIN


def test_given_key_that_is_no_key_is_the_callers_error(pristine: Path) -> None:
    with pytest.raises(SigningKeyError):
        verify_bundle(pristine / "bundle", public_key=pristine / "bundle" / "bundle.json")


def test_bundle_signed_anew_by_somebody_else_is_of_unknown_origin(
    pristine: Path, tmp_path: Path
) -> None:
    make_bundle(tmp_path, name="forged", content={"a": b"better numbers"})
    report = check(tmp_path / "forged", pristine)
    assert report.verdict is Verdict.UNKNOWN_ORIGIN


def test_older_bundle_of_the_same_name_is_found_when_the_digest_is_known(
    pristine: Path, tmp_path: Path
) -> None:
    key = load_key(pristine / "keys")
    old = make_bundle(tmp_path, name="old", key=key, content={"a": b"older"})
    expected = verify_bundle(pristine / "bundle", key_dir=pristine / "keys").content_digest
    report = verify_bundle(old.path, key_dir=pristine / "keys", expected_content_digest=expected)
    assert report.verdict is Verdict.NOT_INTACT
    assert errors(report) == {("other-bundle", None)}


@pytest.mark.parametrize("kind", ["missing", "empty", "file", "other", "loop"])
def test_what_is_no_bundle_is_said_to_be_none(tmp_path: Path, kind: str, pristine: Path) -> None:
    path = tmp_path / "it"
    if kind == "file":
        path.write_bytes(b"x")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind != "missing":
        path.mkdir()
    if kind == "other":
        (path / "bundle.json").write_bytes(b'{"name": "some web project"}')
    report = check(path, pristine)
    assert report.verdict is Verdict.NOT_A_BUNDLE
    assert report.exit_code == 20


def test_bundle_of_a_later_format_is_none_that_this_version_can_read(
    bundle: Path, pristine: Path
) -> None:
    path = bundle / "bundle.json"
    path.write_bytes(path.read_bytes().replace(b"bundle-v1", b"bundle-v2"))
    assert check(bundle, pristine).verdict is Verdict.NOT_INTACT
    import hashlib

    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    def accept(statement: dict[str, Any]) -> None:
        for entry in statement["subject"]:
            if entry["name"] == "bundle.json":
                entry["digest"]["sha256"] = digest

    resign(bundle, pristine / "keys", accept)
    report = check(bundle, pristine)
    assert report.verdict is Verdict.NOT_A_BUNDLE
    assert errors(report) == {("format-unknown", "bundle.json")}


# -- single changes to files

FILES = sorted(
    [
        *(f"content/{name}" for name in content_files()),
        "observed/train/log.txt",
        "observed/evaluate/videos/episode1.mp4",
        "bundle.json",
        "VERIFY.md",
        "public_key.pem",
    ]
)


@pytest.mark.parametrize("name", FILES)
def test_changed_byte_is_found_and_named(bundle: Path, pristine: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(bytes(data))
    report = check(bundle, pristine)
    assert report.exit_code == 21
    assert ("file-changed", name) in errors(report)


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_found_and_named(bundle: Path, pristine: Path, name: str) -> None:
    (bundle / name).unlink()
    report = check(bundle, pristine)
    assert report.exit_code == 21
    assert ("file-missing", name) in errors(report)


def test_missing_attestation_is_not_intact(bundle: Path, pristine: Path) -> None:
    (bundle / ATTESTATION).unlink()
    report = check(bundle, pristine)
    assert report.exit_code == 21
    assert errors(report) == {("attestation-missing", ATTESTATION)}


@pytest.mark.parametrize("name", ["added", "content/added", "observed/train/log.txt~", ".hidden"])
def test_added_file_is_found_and_named(bundle: Path, pristine: Path, name: str) -> None:
    (bundle / name).write_bytes(b"x")
    report = check(bundle, pristine)
    assert report.exit_code == 21
    assert ("file-extra", name) in errors(report)


def test_added_empty_folder_is_found_and_named(bundle: Path, pristine: Path) -> None:
    (bundle / "content/new/deep").mkdir(parents=True)
    assert errors(check(bundle, pristine)) == {("folder-extra", "content/new/deep")}


def test_renamed_file_is_named_with_both_names(bundle: Path, pristine: Path) -> None:
    (bundle / "observed/train/log.txt").rename(bundle / "observed/train/diary.txt")
    report = check(bundle, pristine)
    assert errors(report) == {("file-renamed", "observed/train/log.txt")}
    assert "observed/train/diary.txt" in report.findings[0].message


def test_renamed_file_in_case_only_is_named_as_such(bundle: Path, pristine: Path) -> None:
    (bundle / "observed/train/log.txt").rename(bundle / "observed/train/Log.txt")
    report = check(bundle, pristine)
    assert errors(report) == {("file-renamed", "observed/train/log.txt")}
    assert "case only" in report.findings[0].message


def test_moved_folder_is_named_file_by_file(bundle: Path, pristine: Path) -> None:
    (bundle / "observed/evaluate/videos").rename(bundle / "observed/evaluate/films")
    assert errors(check(bundle, pristine)) == {
        ("file-renamed", "observed/evaluate/videos/episode0.mp4"),
        ("file-renamed", "observed/evaluate/videos/episode1.mp4"),
    }


def test_swapped_files_are_named_as_swapped(bundle: Path, pristine: Path) -> None:
    videos = bundle / "observed/evaluate/videos"
    (videos / "episode0.mp4").rename(videos / "x")
    (videos / "episode1.mp4").rename(videos / "episode0.mp4")
    (videos / "x").rename(videos / "episode1.mp4")
    assert errors(check(bundle, pristine)) == {
        ("file-swapped", "observed/evaluate/videos/episode0.mp4"),
        ("file-swapped", "observed/evaluate/videos/episode1.mp4"),
    }


def test_file_overwritten_by_another_is_named_with_it(bundle: Path, pristine: Path) -> None:
    videos = bundle / "observed/evaluate/videos"
    shutil.copy(videos / "episode0.mp4", videos / "episode1.mp4")
    report = check(bundle, pristine)
    assert errors(report) == {("file-changed", "observed/evaluate/videos/episode1.mp4")}
    assert "episode0.mp4" in report.findings[0].message


def test_content_digest_of_changed_content_differs_and_is_reported(
    bundle: Path, pristine: Path
) -> None:
    before = check(bundle, pristine).content_digest
    with (bundle / "content/plan/plan_arrays.npz").open("ab") as stream:
        stream.write(b"x")
    report = check(bundle, pristine)
    assert report.content_digest != before
    assert ("content-digest", None) in errors(report)


# -- links, special files, modes, odd names


@pytest.mark.parametrize("target", ["same", "outside", "dangling", "loop", "/dev/zero"])
def test_link_in_place_of_a_file_is_not_followed(
    bundle: Path, pristine: Path, tmp_path: Path, target: str
) -> None:
    path = bundle / "content/plan/plan_meta.json"
    copy = tmp_path / "plan_meta.json"
    shutil.copy(path, copy)
    path.unlink()
    places = {"same": copy, "outside": Path("/etc/passwd"), "dangling": tmp_path / "none"}
    path.symlink_to(path if target == "loop" else places.get(target, Path(target)))
    found = errors(check(bundle, pristine))
    assert ("not-a-file", "content/plan/plan_meta.json") in found


def test_link_in_place_of_a_folder_is_not_followed(
    bundle: Path, pristine: Path, tmp_path: Path
) -> None:
    shutil.move(bundle / "observed", tmp_path / "observed")
    (bundle / "observed").symlink_to(tmp_path / "observed")
    found = errors(check(bundle, pristine))
    assert ("not-a-file", "observed") in found
    assert ("file-missing", "observed/train/log.txt") in found


@pytest.mark.parametrize("name", ["content/plan/plan_meta.json", ATTESTATION, "extra"])
def test_pipe_does_not_block_the_check(bundle: Path, pristine: Path, name: str) -> None:
    (bundle / name).unlink(missing_ok=True)
    os.mkfifo(bundle / name)
    report = check(bundle, pristine)
    assert report.exit_code == 21
    assert ("not-a-file", name) in errors(report)


def test_folder_in_place_of_a_file_is_found(bundle: Path, pristine: Path) -> None:
    (bundle / "content/plan/plan_meta.json").unlink()
    (bundle / "content/plan/plan_meta.json").mkdir()
    assert ("file-missing", "content/plan/plan_meta.json") in errors(check(bundle, pristine))


@pytest.mark.parametrize(
    ("name", "mode"),
    [("VERIFY.md", 0o755), ("VERIFY.md", 0o600), ("content/plan", 0o700), ("observed", 0o1755)],
)
def test_changed_mode_is_found_and_can_be_ignored_where_a_file_system_keeps_none(
    bundle: Path, pristine: Path, name: str, mode: int
) -> None:
    (bundle / name).chmod(mode)
    assert errors(check(bundle, pristine)) == {("mode-changed", name)}
    report = verify_bundle(bundle, key_dir=pristine / "keys", expected=Expected(ignore_modes=True))
    assert report.trusted
    assert [(f.code, f.path) for f in report.findings] == [("mode-changed", name)]


def test_bundle_of_the_first_version_signed_no_modes_and_stays_valid(
    bundle: Path, pristine: Path
) -> None:
    def forget_modes(statement: dict[str, Any]) -> None:
        statement["predicate"]["buildDefinition"]["internalParameters"] = {}

    resign(bundle, pristine / "keys", forget_modes)
    data = (bundle / ATTESTATION).read_bytes()
    (bundle / ATTESTATION).write_bytes(
        data.replace(b',"tlogEntries":[]', b"").replace(b'"tlogEntries":[],', b"")
    )
    (bundle / "VERIFY.md").chmod(0o755)
    report = check(bundle, pristine)
    assert report.trusted
    assert [(f.code, f.path) for f in report.findings] == [("mode-unusual", "VERIFY.md")]


def test_old_form_around_a_new_statement_is_a_change(bundle: Path, pristine: Path) -> None:
    data = (bundle / ATTESTATION).read_bytes()
    changed = data.replace(b',"tlogEntries":[]', b"")
    assert changed != data
    (bundle / ATTESTATION).write_bytes(changed)
    assert ("attestation-malformed", ATTESTATION) in errors(check(bundle, pristine))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_unreadable_file_is_a_finding(bundle: Path, pristine: Path) -> None:
    (bundle / "VERIFY.md").chmod(0)
    assert errors(check(bundle, pristine)) == {("unreadable", "VERIFY.md")}


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\nb", b"\x1b[31mred", b"a\\b", "ü".encode()])
def test_odd_name_is_a_finding_that_is_safe_to_print(
    bundle: Path, pristine: Path, name: bytes
) -> None:
    with open(os.fsencode(bundle) + b"/content/" + name, "wb"):  # noqa: PTH123
        pass
    report = check(bundle, pristine)
    assert "name-unsafe" in {code for code, _ in errors(report)}
    text = format_report(report)
    assert "\x1b" not in text
    text.encode("utf-8")


def test_deep_folders_are_survived(bundle: Path, pristine: Path) -> None:
    start = os.open(bundle / "content", os.O_RDONLY)
    try:
        for _ in range(300):
            os.mkdir("d" * 50, dir_fd=start)
            following = os.open("d" * 50, os.O_RDONLY, dir_fd=start)
            os.close(start)
            start = following
    finally:
        os.close(start)
    report = check(bundle, pristine)
    assert report.exit_code == 21
    assert {"name-unsafe", "unreadable"} <= {code for code, _ in errors(report)}
    remove_deep(bundle / "content" / ("d" * 50))


def remove_deep(folder: Path) -> None:
    """Remove a chain of folders whose whole path is longer than the system takes."""
    chain = [os.open(folder.parent, os.O_RDONLY)]
    names = [folder.name]
    while True:
        following = os.open(names[-1], os.O_RDONLY, dir_fd=chain[-1])
        entries = os.listdir(following)  # noqa: PTH208
        chain.append(following)
        if not entries:
            break
        names.append(entries[0])
    for name, parent in zip(reversed(names), reversed(chain[:-1]), strict=True):
        os.rmdir(name, dir_fd=parent)
    for handle in chain:
        os.close(handle)


# -- attestation, key, statement


def test_attestation_of_another_bundle_of_the_same_signer_is_found(
    bundle: Path, pristine: Path, tmp_path: Path
) -> None:
    other = make_bundle(
        tmp_path, name="other", key=load_key(pristine / "keys"), content={"x": b"1"}
    )
    shutil.copy(other.path / ATTESTATION, bundle / ATTESTATION)
    found = errors(check(bundle, pristine))
    assert ("file-missing", "content/x") in found
    assert ("file-extra", "content/plan/plan_meta.json") in found
    assert ("content-digest", None) in found


def test_attestation_of_another_signer_over_the_same_files_is_found(
    bundle: Path, pristine: Path, tmp_path: Path
) -> None:
    other = make_bundle(tmp_path, name="other")
    shutil.copy(other.path / ATTESTATION, bundle / ATTESTATION)
    found = errors(check(bundle, pristine))
    assert ("public-key-mismatch", "public_key.pem") in found
    assert ("signature-unchecked", ATTESTATION) in found


def test_key_of_another_signer_in_the_bundle_is_found_though_the_trusted_key_fits(
    bundle: Path, pristine: Path, tmp_path: Path
) -> None:
    load_or_create_key(tmp_path / "keys")
    shutil.copy(tmp_path / "keys" / PUBLIC_KEY_FILE, bundle / "public_key.pem")
    assert errors(check(bundle, pristine)) == {
        ("public-key-mismatch", "public_key.pem"),
        ("file-changed", "public_key.pem"),
    }


@pytest.mark.parametrize("field", ["payload", "sig", "keyid", "payloadType"])
def test_every_part_of_the_envelope_is_protected(bundle: Path, pristine: Path, field: str) -> None:
    path = bundle / ATTESTATION
    envelope = json.loads(path.read_bytes())["dsseEnvelope"]
    holder = envelope if field in envelope else envelope["signatures"][0]
    old = holder[field]
    new = old[:40] + ("A" if old[40:41] != "A" else "B") + old[41:]
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))
    report = check(bundle, pristine)
    assert report.exit_code == 21
    assert ATTESTATION in {path for _, path in errors(report)}


def test_changed_payload_is_a_bad_signature(bundle: Path, pristine: Path) -> None:
    path = bundle / ATTESTATION
    value = json.loads(path.read_bytes())
    payload = base64.b64decode(value["dsseEnvelope"]["payload"]).replace(
        b"touch_block", b"touch_clock"
    )
    new = base64.b64encode(payload).decode()
    path.write_bytes(
        path.read_bytes().replace(value["dsseEnvelope"]["payload"].encode(), new.encode())
    )
    assert ("signature-invalid", ATTESTATION) in errors(check(bundle, pristine))


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x", "content/../x", "a\nb", ATTESTATION, "content/PLAN/x"]
)
def test_signed_statement_with_an_unsafe_name_is_found(
    bundle: Path, pristine: Path, name: str
) -> None:
    def add(statement: dict[str, Any]) -> None:
        statement["subject"].append({"name": name, "digest": {"sha256": "0" * 64}})

    resign(bundle, pristine / "keys", add)
    report = check(bundle, pristine)
    assert report.exit_code == 21
    assert {"name-unsafe", "name-clash"} & {code for code, _ in errors(report)}


@pytest.mark.parametrize("name", ["bundle.json", "public_key.pem", "content/lock.json"])
def test_signed_statement_that_leaves_a_file_out_is_found(
    bundle: Path, pristine: Path, name: str
) -> None:
    def drop(statement: dict[str, Any]) -> None:
        statement["subject"] = [e for e in statement["subject"] if e["name"] != name]

    resign(bundle, pristine / "keys", drop)
    assert ("file-extra", name) in errors(check(bundle, pristine))


@pytest.mark.parametrize(
    "edit",
    [
        {"_type": "https://in-toto.io/Statement/v0.1"},
        {"predicateType": "https://example.com/other"},
        {"subject": None},
        {"subject": [{}]},
        {"subject": [{"name": "a", "digest": {"sha512": "0"}}]},
        {"subject": [{"name": "a", "digest": {"sha256": "ABC"}}]},
        {"subject": [{"name": "a", "digest": {"sha256": "0" * 64}}] * 2},
        {"predicate": []},
    ],
)
def test_signed_statement_of_another_shape_is_found(
    bundle: Path, pristine: Path, edit: dict[str, Any]
) -> None:
    resign(bundle, pristine / "keys", lambda statement: statement.update(edit))
    assert ("statement-malformed", ATTESTATION) in errors(check(bundle, pristine))


# -- what the parts say


def contradicting(**replaced: bytes) -> dict[str, bytes]:
    names = {
        "summary": "train/run_summary.json",
        "metrics": "evaluate/metrics.json",
        "episodes": "evaluate/episodes.jsonl",
        "plan": "plan/plan_meta.json",
        "lock": "lock.json",
        "manifest": "manifest.json",
    }
    return {**content_files(), **{names[key]: data for key, data in replaced.items()}}


@pytest.mark.parametrize(
    ("files", "path"),
    [
        (contradicting(summary=b'{"plan_sha256": "other"}'), "content/train/run_summary.json"),
        (contradicting(metrics=b'{"episodes": 5}'), "content/evaluate/metrics.json"),
        (contradicting(metrics=b'{"successes": 4}'), "content/evaluate/metrics.json"),
        (contradicting(metrics=b'{"success_rate": 0.8}'), "content/evaluate/metrics.json"),
        (contradicting(episodes=b'{"outcome":"success"}\n'), "content/evaluate/metrics.json"),
        (contradicting(plan=b'{"dataset_fingerprint": "x"}'), "content/plan/plan_meta.json"),
        (contradicting(lock=b'{"manifest_sha256": "x"}'), "content/lock.json"),
        (contradicting(lock=b'{"dataset": {"fingerprint": "x"}}'), "content/lock.json"),
        (contradicting(manifest=b'{"plan": {"stride": 3}}'), "content/manifest.json"),
        (contradicting(manifest=b'{"other": 1}'), "content/manifest.json"),
        (contradicting(manifest=b"[]"), "content/manifest.json"),
    ],
)
def test_signed_files_that_contradict_each_other_are_not_intact(
    pristine: Path, tmp_path: Path, files: dict[str, bytes], path: str
) -> None:
    made = make_bundle(tmp_path, key=load_key(pristine / "keys"), content=files)
    report = check(made.path, pristine)
    assert report.exit_code == 21
    assert ("contradiction", path) in errors(report)
    assert {code for code, _ in errors(report)} == {"contradiction"}


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"NaN", b"[" * 100_000, b"1" * 5000])
def test_signed_file_that_is_no_json_is_a_finding(
    pristine: Path, tmp_path: Path, data: bytes
) -> None:
    key = load_key(pristine / "keys")
    for part in ("summary", "episodes", "metrics"):
        if part == "episodes" and not data:
            continue
        files = contradicting(**{part: data})
        made = make_bundle(tmp_path, key=key, content=files, name=part)
        report = check(made.path, pristine)
        assert report.exit_code == 21
        assert "malformed" in {code for code, _ in errors(report)}


def test_baseline_has_no_plan_anywhere(pristine: Path, tmp_path: Path) -> None:
    manifest = {**MANIFEST, "plan": None}
    key = load_key(pristine / "keys")
    report = check(make_bundle(tmp_path, key=key, manifest=manifest).path, pristine)
    assert ("contradiction", "content/plan/plan_meta.json") in errors(report)
    files = {n: data for n, data in content_files(manifest).items() if "plan" not in n}
    files["train/run_summary.json"] = b'{"plan_sha256": null}'
    made = make_bundle(tmp_path, key=key, manifest=manifest, content=files, name="baseline")
    assert check(made.path, pristine).trusted


def test_report_says_what_the_bundle_claims_and_that_it_is_no_robotwin_score(
    pristine: Path,
) -> None:
    report = check(pristine / "bundle", pristine)
    claims = report.claims
    assert (claims.name, claims.task) == ("touch_block-demo50", "touch_block")
    assert (claims.episodes, claims.successes, claims.success_rate) == (4, 3, 0.75)
    assert claims.success_interval == (0.3, 0.95)
    assert claims.plan_sha256 == PLAN_SHA256
    assert claims.levels == ("R0", "R1")
    text = format_report(report)
    assert text.startswith("INTACT, SIGNER TRUSTED")
    assert "75.0% of 4 episodes (interval 30.0% to 95.0%)" in text
    assert "not a RoboTwin score" in text
    assert "stand_in" in text
    assert report.key_id is not None
    assert report.key_id in text


def test_report_as_json_values_holds_every_finding(bundle: Path, pristine: Path) -> None:
    for number in range(60):
        (bundle / f"extra{number}").write_bytes(b"")
    report = check(bundle, pristine)
    value = report_to_dict(report)
    assert value["exit_code"] == 21
    assert value["verdict"] == "not-intact"
    assert len(value["findings"]) == len(report.findings) >= 60
    assert "more (--json has all)" in format_report(report)


def test_memory_does_not_grow_with_a_large_file(bundle: Path, pristine: Path) -> None:
    import tracemalloc

    with (bundle / "observed" / "huge").open("wb") as stream:
        stream.truncate(300 << 20)
    tracemalloc.start()
    report = check(bundle, pristine)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ("file-extra", "observed/huge") in errors(report)
    assert peak < 8 << 20


def test_large_file_of_a_known_name_is_hashed_but_not_kept(pristine: Path, tmp_path: Path) -> None:
    files = {**content_files(), "other/episodes.jsonl": bytes(17 << 20)}
    made = make_bundle(tmp_path, key=load_key(pristine / "keys"), content=files)
    report = check(made.path, pristine)
    assert report.trusted
    assert [finding.code for finding in report.findings] == ["too-large"]
