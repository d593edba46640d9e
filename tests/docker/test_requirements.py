"""The locked sets and the Dockerfile, as text; `make check-requirements` asks an index for real."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

DOCKER = ROOT / "docker"
SETS = sorted((DOCKER / "requirements").glob("*.txt"))
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", re.M)


def pins(name: str) -> dict[str, str]:
    text = (DOCKER / "requirements" / f"{name}.txt").read_text("utf-8")
    return dict(PIN.findall(text))


@pytest.mark.parametrize("path", SETS, ids=[path.stem for path in SETS])
def test_every_requirement_is_pinned_and_hashed_and_no_address_is_named(path: Path) -> None:
    text = path.read_text("utf-8")
    entries = re.split(r"\n(?=\S)", text.strip())
    for entry in entries:
        assert PIN.match(entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry
    assert "://" not in text
    assert len(PIN.findall(text)) == len(set(PIN.findall(text)))


def test_the_cuda_set_is_the_run_set_and_jaxs_cuda_plugin() -> None:
    run, cuda = pins("run"), pins("cuda")
    moved = {name: (run[name], cuda.get(name)) for name in run if cuda.get(name) != run[name]}
    assert moved == {}
    added = set(cuda) - set(run)
    assert {"jax-cuda12-plugin", "jax-cuda12-pjrt"} <= added
    assert all(name.startswith(("jax-cuda12", "nvidia-")) for name in added)
    assert cuda["jax-cuda12-plugin"] == cuda["jax"]


def test_the_simulators_set_has_the_exact_pins_robotwins_runtime_declares() -> None:
    found = pins("robotwin-cuda") | pins("robotwin-cuda-source")
    declared = {
        "rlinf-robotwin-runtime": "0.1.3",
        "numpy": "1.26.4",
        "torch": "2.8.0",
        "sapien": "3.0.0b1",
        "mplib": "0.2.1",
        "open3d": "0.18.0",
        "toppra": "0.6.3",
        "gymnasium": "0.29.1",
        "transforms3d": "0.4.2",
        "trimesh": "4.4.3",
        "warp-lang": "1.11.1",
    }
    assert {name: found.get(name) for name in declared} == declared
    assert set(pins("robotwin-cuda")).isdisjoint(pins("robotwin-cuda-source"))


def find_tool(name: str) -> str:
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.is_file() else shutil.which(name) or pytest.fail(f"no {name}")


def test_the_dockerfile_passes_hadolint() -> None:
    done = subprocess.run(
        [find_tool("hadolint"), str(DOCKER / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_dockerfile_pins_bases_by_digest_and_hides_nothing_in_layers() -> None:
    text = (DOCKER / "Dockerfile").read_text("utf-8")
    images = re.findall(r"^ARG \w+_IMAGE=(\S+)$", text, re.M)
    assert len(images) == 2
    assert all(re.fullmatch(r"[a-z/]+:[\w.-]+@sha256:[0-9a-f]{64}", image) for image in images)
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.M))
    for source in re.findall(r"^FROM (\S+) AS", text, re.M):
        assert source.startswith("${") or "${" in source or source in stages, source
    for target in ("cpu", "cuda"):
        body = text.split(f" AS {target}\n")[1].split("\nFROM ")[0]
        assert "USER 10001:10001" in body
    # What 20.10's builder cannot do, and what would put a secret or an address into a layer.
    for forbidden in ("# syntax=", "<<EOF", "RUN --network", "COPY --link", "ADD ", "https://"):
        lines = [line for line in text.splitlines() if forbidden in line]
        assert [line for line in lines if not line.startswith("ARG CUROBO_SOURCE=")] == []


def test_every_build_step_is_sound_shell() -> None:
    scripts = [*sorted((DOCKER / "steps").iterdir()), DOCKER / "make-base"]
    for script in scripts:
        assert script.stat().st_mode & 0o111, f"{script} is not executable"
    scripts += sorted((DOCKER / "requirements").glob("*.sh"))
    done = subprocess.run(
        [find_tool("shellcheck"), *map(str, scripts)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_make_has_a_target_that_resolves_the_sets_for_real() -> None:
    # `make test` tells the makes below it that they are inner ones, and these then say which
    # folder they are in: the last line would be that.
    done = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "check-requirements"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("docker/requirements/check.sh")


def test_every_step_the_dockerfile_calls_is_there() -> None:
    text = (DOCKER / "Dockerfile").read_text("utf-8")
    called = set(re.findall(r"/steps/([a-z-]+)", text))
    there = {path.name for path in (DOCKER / "steps").iterdir()}
    assert called <= there
    inner = " ".join(path.read_text("utf-8") for path in (DOCKER / "steps").iterdir())
    assert all(name in called or f"/{name}" in inner for name in there)
