"""One container engine, one base image and one cpu image for all tests of this folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from appliance.simulator.mesa import machine_sources
from tests.conftest import ROOT
from tests.golden.docker.daemon import CannotRunError, Daemon, install_engine, make_folder

BASE = "appliance-test-base:bookworm"
IMAGE = "plan-star-appliance:cpu"
TIMEOUT_S = 1500
# A folder of an engine to be kept, with the image in it, for working on these tests; CI has none.
KEPT_FOLDER = "APPLIANCE_TEST_DOCKER_FOLDER"


@dataclass(frozen=True, slots=True, kw_only=True)
class Containers:
    """The engine with the image in it, and how a command is run on it."""

    daemon: Daemon
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "DOCKER_HOST": self.daemon.host,
            "XDG_CACHE_HOME": str(self.folder / "cache"),
        }

    def command(self, manifest: Path, run: str, *options: str) -> list[str]:
        return [
            *(sys.executable, "-m", "appliance", "run", str(manifest), "--no-cache"),
            *("--engine", "docker", "--run-dir", str(self.folder / "runs" / run)),
            *("--key-dir", str(self.folder / "keys"), *options),
        ]

    def appliance(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "appliance", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def run(self, manifest: Path, run: str, *options: str) -> subprocess.CompletedProcess[str]:
        return self.appliance(*self.command(manifest, run, *options)[3:])

    def finish(self, manifest: Path, run: str) -> dict[str, Any]:
        done = self.run(manifest, run, "--json")
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def left(self) -> list[str]:
        """Containers the engine has, in any state."""
        import docker

        client = docker.DockerClient(base_url=self.daemon.host)
        try:
            return [each["Id"] for each in client.api.containers(all=True)]
        finally:
            client.close()


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """A running engine; stopped, unmounted and removed at the end."""
    kept = os.environ.get(KEPT_FOLDER)
    try:
        install_engine()
        engine = Daemon(folder=Path(kept) if kept else make_folder())
    except CannotRunError as reason:
        pytest.skip(f"no container engine: {reason}")
    try:
        try:
            engine.start()
        except CannotRunError as reason:
            pytest.skip(f"no container engine: {reason}")
        yield engine
    finally:
        engine.stop()
        if not kept:
            shutil.rmtree(engine.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def containers(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Containers:
    """The cpu image, built from this checkout on a base made from Debian packages."""
    ready = Containers(daemon=daemon, folder=tmp_path_factory.mktemp("docker"))
    if os.environ.get(KEPT_FOLDER) and ready.appliance("image", "inspect", IMAGE).returncode == 0:
        return ready
    sources = [source.as_line() for source in machine_sources() if "backports" not in source.suite]
    made = subprocess.run(
        [str(ROOT / "docker" / "make-base"), BASE, *sources],
        env={**ready.environment, "DOCKER_CLI_HINTS": "false"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    built = ready.appliance("image", "build", "--base-image", BASE, "--network", "host")
    assert built.returncode == 0, built.stderr[-3000:]
    return ready
