"""What a stranger hands over costs little memory, whatever is in it."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.bundle.archive import END_BYTES, _make_header
from appliance.bundle.bounds import (
    MAX_ATTESTATION_BYTES,
    MAX_EPISODES_BYTES,
    MAX_FACT_FILE_BYTES,
    MAX_JSON_VALUES,
    parse_json,
)
from appliance.bundle.dsse import IN_TOTO_PAYLOAD_TYPE, sign_envelope
from appliance.bundle.keys import load_or_create_key
from appliance.bundle.preregistration import PREREGISTRATION_FILE
from appliance.bundle.sigstore import encode_attestation
from appliance.bundle.statement import PREDICATE_TYPE, STATEMENT_TYPE
from appliance.bundle.summary import SUFFIX
from appliance.bundle.verify import verify_bundle
from tests.bundle.sample import EPISODES, METRICS, content_files, make_bundle, observed_files

MEMORY_LIMIT_MB = 200
OURS = b'{"format": "plan-star-bundle-v1"}'
MEASURE = """
import sys
from pathlib import Path
from appliance.bundle.describe import format_report
from appliance.bundle.verify import verify_bundle
report = verify_bundle(Path(sys.argv[1]), key_dir=Path(sys.argv[2]))
format_report(report)
status = Path("/proc/self/status").read_text()
print(report.exit_code, int(status.partition("VmHWM:")[2].split()[0]) // 1024)
"""


def measure(bundle: Path, keys: Path) -> tuple[int, int]:
    """Exit code and peak memory in MB of a check in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(bundle), str(keys)],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    code, peak_mb = map(int, done.stdout.split())
    return code, peak_mb


def pack(path: Path, files: dict[str, bytes]) -> Path:
    with path.open("wb") as stream, gzip.GzipFile("", "wb", 6, stream, mtime=0) as packed:
        for name in sorted(files):
            data = files[name]
            packed.write(_make_header(name, len(data)) + data + bytes(-len(data) % 512))
        packed.write(bytes(END_BYTES))
    return path


def fill(start: str, unit: str, end: str, size_bytes: int) -> bytes:
    """JSON text of about this size: ``unit`` again and again."""
    count = (size_bytes - len(start) - len(end)) // len(unit)
    return (start + unit * count + end).encode()


SHAPES: dict[str, Callable[[int], bytes]] = {
    "objects": lambda size: fill("[", "{},", "0]", size),
    "escapes": lambda size: fill('{"plan_sha256": "', "\\u0007", '"}', size),
    "deep": lambda size: fill("", "[", "", size),
    "names": lambda size: json.dumps({str(n): {} for n in range(size // 13)}).encode()[:size],
    "few enough": lambda _: fill("[", "{},", "0]", 3 * (MAX_JSON_VALUES // 2 - 8)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_hostile_json_in_every_file_that_is_read_stays_under_the_limit(
    tmp_path: Path, shape: str
) -> None:
    key = load_or_create_key(tmp_path / "keys")
    make = SHAPES[shape]
    size = MAX_FACT_FILE_BYTES - 1024
    payload = make(MAX_ATTESTATION_BYTES * 3 // 4 - 1024)
    signed = encode_attestation(sign_envelope(payload, IN_TOTO_PAYLOAD_TYPE, key))
    assert len(signed) <= MAX_ATTESTATION_BYTES
    facts = {
        "content/lock.json": make(size),
        "content/manifest.json": make(size),
        "content/x/metrics.json": make(size),
        "observed/receipts/train.json": make(size),
        f"observed/train/{PREREGISTRATION_FILE}": signed,
        "content/x/episodes.jsonl": make(MAX_EPISODES_BYTES // 2),
        "public_key.pem": key.public.pem,
    }
    statement = {
        "_type": STATEMENT_TYPE,
        "predicateType": PREDICATE_TYPE,
        "subject": [],
        "predicate": {"buildDefinition": {"externalParameters": {"manifest": {"dataset": 1}}}},
    }
    plain = sign_envelope(json.dumps(statement).encode(), IN_TOTO_PAYLOAD_TYPE, key)
    cases = {
        "unsigned": {"attestation.sigstore.json": payload, "bundle.json": OURS},
        "signed": {"attestation.sigstore.json": signed, "bundle.json": OURS},
        "facts": {"attestation.sigstore.json": encode_attestation(plain), "bundle.json": OURS},
        "bundle": {"bundle.json": make(size), "attestation.sigstore.json": signed},
    }
    found = {}
    for name, files in cases.items():
        path = pack(tmp_path / f"{name}.tar.gz", files | (facts if name == "facts" else {}))
        (tmp_path / f"{name}.tar.gz.aaaa{SUFFIX}").write_bytes(signed)
        code, found[name] = measure(path, tmp_path / "keys")
        assert code in (20, 21)
    assert max(found.values()) < MEMORY_LIMIT_MB, found


def test_hostile_lines_and_names_stay_under_the_limit(tmp_path: Path) -> None:
    key = load_or_create_key(tmp_path / "keys")
    size = MAX_ATTESTATION_BYTES * 3 // 4 - 1024
    slashes = ["a/" * (size // 2) + "a"]
    many = [f"{n:04}/" + "a/" * 390 + "b" for n in range(size // 900)]
    for number, names in enumerate((slashes, many, ["\x07" * (size // 6)])):
        statement = {
            "_type": STATEMENT_TYPE,
            "predicateType": PREDICATE_TYPE,
            "predicate": {},
            "subject": [{"name": name, "digest": {"sha256": "0" * 64}} for name in names],
        }
        envelope = sign_envelope(json.dumps(statement).encode(), IN_TOTO_PAYLOAD_TYPE, key)
        files = {
            "attestation.sigstore.json": encode_attestation(envelope),
            "bundle.json": OURS,
            "content/x/episodes.jsonl": b"12\n" * (MAX_EPISODES_BYTES // 3 // 8),
        }
        path = pack(tmp_path / f"{number}.tar.gz", files)
        code, peak_mb = measure(path, tmp_path / "keys")
        assert code == 21
        assert peak_mb < MEMORY_LIMIT_MB


def test_text_with_more_values_than_any_bundle_has_is_refused_before_it_is_parsed() -> None:
    whole = ["x"] * (MAX_JSON_VALUES - 2)
    assert parse_json(json.dumps(whole).encode()) == whole
    with pytest.raises(ValueError, match="values"):
        parse_json(json.dumps([*whole, 1, 2]).encode())


def test_bundle_of_a_large_run_is_read_whole_and_stays_under_the_limit(tmp_path: Path) -> None:
    """A thousand episodes with their videos, the leaves of a policy, two thousand other files."""
    episodes = [{**EPISODES[n % 4], "episode": n, "trial": "x" * 700} for n in range(1000)]
    trials = {f"trial {n}": ["0" * 64, "an instruction of some length"] for n in range(1000)}
    metrics = {**METRICS, "episodes": 1000, "successes": 750, "trials": trials}
    leaves = {f"params/layer_{n}/kernel": "ab" * 32 for n in range(5000)}
    content = {
        **content_files(),
        "evaluate/metrics.json": json.dumps(metrics).encode(),
        "evaluate/episodes.jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in episodes),
        "train/checkpoint_leaves.json": json.dumps({"6000": leaves}).encode(),
    }
    observed = {
        **observed_files(),
        "evaluate/_metrics.json": json.dumps({"episodes": 1000, "successes": 750}).encode(),
        **{f"evaluate/videos/episode{n}.mp4": b"%d" % n for n in range(1000)},
        **{f"train/files/shard_{n:05}.json": b"%d" % n for n in range(2000)},
    }
    silent = {"version": 1, "name": "x", "dataset": {"repo_id": "touch_block-demo50"}}
    content["manifest.json"] = json.dumps(silent).encode()
    content["lock.json"] = b"{}"
    make_bundle(tmp_path, content=content, observed=observed, manifest=silent)
    report = verify_bundle(tmp_path / "bundle", key_dir=tmp_path / "keys")
    assert report.findings == ()
    assert report.claims.episodes == 1000
    code, peak_mb = measure(tmp_path / "bundle", tmp_path / "keys")
    assert (code, peak_mb < MEMORY_LIMIT_MB) == (0, True)
