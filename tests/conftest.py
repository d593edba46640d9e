"""What every test shares: the golden manifests, and the command line run in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

# How long an example takes says how busy the machine is, not whether a law holds.
hypothesis.settings.register_profile("busy machine", deadline=None)
hypothesis.settings.load_profile("busy machine")

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "manifests" / "golden"
DATASET = GOLDEN / "data" / "touch_block-stand_in-50"


# Folders whose tests share one long piece of work: one worker does all of a folder.
TOGETHER = ("golden",)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        if folder in TOGETHER:
            item.add_marker(pytest.mark.xdist_group(folder))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command ended with."""

    code: int
    out: str
    err: str


Appliance = Callable[..., Outcome]


@pytest.fixture
def appliance(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Appliance:
    """Run ``appliance ARGUMENTS`` in this process and return its exit code and output."""
    from appliance.cli.main import main

    def run(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["appliance", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        code = ended.value.code
        return Outcome(code=code if isinstance(code, int) else 1, out=out, err=err)

    return run


@pytest.fixture
def write_manifest(tmp_path: Path) -> Callable[..., Path]:
    """Write the smoke manifest with replacements ``old -> new``.

    Its dataset path is made absolute and what it expects of the plan is left out.
    """

    def write(*replacements: tuple[str, str], name: str = "manifest.yaml") -> Path:
        text = (GOLDEN / "smoke.yaml").read_text("utf-8").partition("\nexpect:")[0] + "\n"
        for old, new in (("root: data/", f"root: {GOLDEN}/data/"), *replacements):
            assert old in text, f"{old!r} is not in the smoke manifest"
            text = text.replace(old, new)
        path = tmp_path / name
        path.write_text(text, "utf-8")
        return path

    return write
