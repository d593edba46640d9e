"""The build's steps that fetch Debian packages, with programs that stand in for apt and dpkg."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

STEPS = ROOT / "docker" / "steps"
FETCHING = ("install-debian", "install-mesa")
# Says what it was asked and with which settings; installs nothing, so that a step ends there.
APT_GET = """#!/bin/sh
echo "$*: $(tr '\\n' ' ' <"$APT_CONFIG") $(stat -c %a "$APT_CONFIG")" >>"$ASKED"
[ "$2" = update ]
"""


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    """A copy of the steps whose secret is a file here, and whose last step removes nothing."""
    folder = tmp_path / "steps"
    folder.mkdir()
    for name in (*FETCHING, "apt-settings"):
        text = (STEPS / name).read_text("utf-8")
        for place in ("/run/secrets/ca", "/tmp/apt-settings"):
            text = text.replace(place, str(tmp_path / place.rpartition("/")[2]))
        (folder / name).write_text(text)
        shutil.copymode(STEPS / name, folder / name)
    programs = tmp_path / "bin"
    programs.mkdir()
    for path, text in (
        (folder / "forget-traces", "#!/bin/sh\n"),
        (programs / "apt-get", APT_GET),
        (programs / "apt-cache", "#!/bin/sh\necho '  Candidate: 25.0'\n"),
        (programs / "dpkg", "#!/bin/sh\n"),
    ):
        path.write_text(text)
        path.chmod(0o755)
    return folder


def apt_calls(steps: Path, step: str) -> list[str]:
    asked = steps.parent / "asked"
    subprocess.run(
        [str(steps / step), "package"],
        env={"PATH": f"{steps.parent / 'bin'}:/usr/bin:/bin", "ASKED": str(asked)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    return asked.read_text().splitlines()


@pytest.mark.parametrize("step", FETCHING)
def test_every_call_of_apt_trusts_the_builds_certificates_and_its_helpers_can_read_that(
    steps: Path, step: str
) -> None:
    ca = steps.parent / "ca"
    ca.touch()
    calls = apt_calls(steps, step)
    assert any("update" in call for call in calls)
    assert any("install" in call for call in calls)
    for call in calls:
        assert f'Acquire::https::CaInfo "{ca}";' in call
        assert call.endswith(" 644")


@pytest.mark.parametrize("step", FETCHING)
def test_without_certificates_the_systems_are_trusted(steps: Path, step: str) -> None:
    calls = apt_calls(steps, step)
    assert calls
    assert not [call for call in calls if "CaInfo" in call]


def test_the_certificates_can_be_read_by_apts_own_user() -> None:
    text = (ROOT / "docker" / "Dockerfile").read_text("utf-8")
    mounts = [word for word in text.split() if word.startswith("--mount=type=secret")]
    assert mounts
    assert set(mounts) == {"--mount=type=secret,id=ca,mode=0444"}
