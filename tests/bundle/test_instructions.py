"""The commands in VERIFY.md are run as they stand there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.bundle.keys import PUBLIC_KEY_FILE, load_or_create_key
from appliance.digest import digest_files
from tests.bundle.other_tools import seed_crate_cache

NEEDED = ("sh", "python3", "openssl", "sha256sum", "find", "diff")
pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in NEEDED), reason=f"needs {', '.join(NEEDED)}"
)


OWN_BLOCKS = 3
OTHER_BLOCKS = 4


def read_commands(bundle: Path) -> list[str]:
    text = (bundle / "VERIFY.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == OWN_BLOCKS + OTHER_BLOCKS
    return blocks


def run_commands(
    bundle: Path, key: Path, tmp_path: Path, *, others: bool = False
) -> subprocess.CompletedProcess[str]:
    blocks = read_commands(bundle)
    if not others:
        blocks = blocks[:OWN_BLOCKS]
    tools = Path(sys.executable).parent
    environment = {
        **os.environ,
        "KEY": str(key),
        "TMPDIR": str(tmp_path),
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "https_proxy": "http://127.0.0.1:9",
    }
    return subprocess.run(
        ["sh", "-e", "-c", "\n".join(blocks)],
        cwd=bundle,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_commands_accept_the_untouched_bundle(pristine: Path, tmp_path: Path) -> None:
    key = pristine / "keys" / PUBLIC_KEY_FILE
    done = run_commands(pristine / "bundle", key, tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "Verified OK"
    key_id = load_or_create_key(pristine / "keys").key_id
    assert lines[1:] == [f"{key_id}  -"]
    assert key_id in (pristine / "bundle" / "VERIFY.md").read_text(encoding="utf-8")


def test_commands_of_the_other_programs_accept_the_untouched_bundle(
    bundle: Path, pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they stand there; the vocabulary is laid where the first call would keep it."""
    before = digest_files(bundle)
    seed_crate_cache(tmp_path / "seed")
    wrapper = tmp_path / "bin" / "mktemp"
    wrapper.parent.mkdir()
    wrapper.write_text(
        f'#!/bin/sh\nout=$({shutil.which("mktemp")} "$@") &&'
        f' cp "{tmp_path}/seed.sqlite" "$out/vocabulary.sqlite" && echo "$out"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}")
    done = run_commands(bundle, pristine / "keys" / PUBLIC_KEY_FILE, tmp_path, others=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Verification succeeded" in done.stdout
    assert digest_files(bundle) == before


@pytest.mark.parametrize("change", ["edit", "add", "remove", "attestation", "key"])
def test_commands_reject_a_changed_bundle(
    bundle: Path, pristine: Path, tmp_path: Path, change: str
) -> None:
    key = pristine / "keys" / PUBLIC_KEY_FILE
    attestation = bundle / "attestation.sigstore.json"
    if change == "edit":
        (bundle / "content/plan/plan_meta.json").write_bytes(b"{}")
    elif change == "add":
        (bundle / "content/more").write_bytes(b"")
    elif change == "remove":
        (bundle / "observed/empty.log").unlink()
    elif change == "attestation":
        data = attestation.read_bytes()
        attestation.write_bytes(data.replace(b'"payload":"ey', b'"payload":"fy'))
    else:
        load_or_create_key(tmp_path / "other")
        key = tmp_path / "other" / PUBLIC_KEY_FILE
    assert run_commands(bundle, key, tmp_path).returncode != 0


@pytest.mark.parametrize("how", [["-e"], [], ["-i"]], ids=["script", "going-on", "pasted"])
@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_commands_verify_nothing_without_the_signer_s_key(
    pristine: Path, tmp_path: Path, shell: str, how: list[str]
) -> None:
    """Else whoever makes a bundle anew, with another key, would be told that it is verified."""
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    environment = {name: value for name, value in os.environ.items() if name != "KEY"}
    done = subprocess.run(
        [shell, *how],
        input="\n".join(read_commands(pristine / "bundle")[:OWN_BLOCKS]),
        cwd=pristine / "bundle",
        env={**environment, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    assert done.returncode != 0 or how == ["-i"]
    assert "Verified OK" not in done.stdout
    assert "from the signer" in done.stderr
