from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.golden.docker.daemon import Daemon


def test_the_doctor_finds_a_running_engine(daemon: Daemon, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "appliance", "doctor", "--for", "docker", "--json"),
            *("--run-dir", str(tmp_path), "--key-dir", str(tmp_path / "keys")),
        ],
        env={**os.environ, "DOCKER_HOST": daemon.host},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    disk = checks["image disk"]  # where the daemon keeps images; a small machine may lack it
    assert f"GiB free at {daemon.folder / 'data'}" in disk["found"]
    assert done.returncode == (31 if disk["status"] == "missing" else 0), done.stderr
    assert checks["container engine"]["status"] == "ok"
    assert checks["container engine"]["required"] is True
    assert checks["container engine"]["found"].startswith("Docker ")
    assert checks["gpu runtime"]["required"] is False
