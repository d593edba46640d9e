"""What every test shares: the golden manifests, and the command line run in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

# How long an example takes says how busy the machine is, not whether a law holds.
hypothesis.settings.register_profile("busy machine", deadline=None)
hypothesis.settings.load_profile("busy machine")

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "manifests" / "golden"
DATASET = GOLDEN / "data" / "touch_block-stand_in-50"


class TestScheduling(LoadScopeScheduling):
    """Which tests one worker does: all of tests/golden (one chain, one engine), else all of a file.

    A file's tests share what its fixtures made.
    """

    __test__ = False

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return GOLDEN_TESTS if file.startswith(GOLDEN_TESTS) else file


GOLDEN_TESTS = "tests/golden/"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> TestScheduling:
    return TestScheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest work first, so that no worker is left with it at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: (not item.nodeid.startswith(GOLDEN_TESTS), item.path not in slow))


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
