"""`appliance report`: bundles, archives, several of them, and everything that is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from appliance.bundle.archive import pack_bundle
from appliance.errors import BundleNotIntactError, NotABundleError, StorageError
from tests.bundle.sample import make_bundle
from tests.conftest import Appliance
from tests.report.markup import parse


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``bundle``, its archive and the ``keys`` it was signed with."""
    folder = tmp_path_factory.mktemp("reported")
    make_bundle(folder)
    pack_bundle(folder / "bundle", folder / "bundle.tar.gz")
    return folder


def test_a_bundle_and_its_archive_give_a_page(
    base: Path, appliance: Appliance, tmp_path: Path
) -> None:
    for target in ("bundle", "bundle.tar.gz"):
        page = tmp_path / f"{target}.html"
        done = appliance("report", base / target, "-o", page, "--key-dir", base / "keys")
        assert done.code == 0, done.err
        assert done.out.splitlines() == ["touch_block-demo50: trusted", str(page)]
        assert "Intact, signer trusted" in parse(page.read_bytes()).words


def test_an_unknown_signer_is_no_failure_but_is_said(
    base: Path, appliance: Appliance, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    done = appliance("report", base / "bundle", "-o", page, "--key-dir", tmp_path / "none")
    assert done.code == 0
    assert "unknown-origin" in done.out
    assert "Intact, of unknown origin" in parse(page.read_bytes()).words


def test_the_page_is_named_after_the_bundle(
    base: Path, appliance: Appliance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = appliance("report", base / "bundle", "--key-dir", base / "keys", "--json")
    value = json.loads(done.out)
    assert value["report"] == "touch_block-demo50-report.html"
    assert value["targets"][0]["verdict"] == "trusted"
    assert (tmp_path / value["report"]).is_file()


def test_several_targets_are_compared(base: Path, appliance: Appliance, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    keys = ("--key-dir", base / "keys")
    done = appliance("report", base / "bundle", base / "bundle.tar.gz", "-o", page, *keys)
    assert done.code == 0, done.err
    assert "A and B compared" in parse(page.read_bytes()).words


def test_a_spoiled_archive_gets_a_page_and_a_code(
    base: Path, appliance: Appliance, tmp_path: Path
) -> None:
    make_bundle(tmp_path)
    (tmp_path / "bundle" / "observed" / "empty.log").write_text("not empty any more")
    pack_bundle(tmp_path / "bundle", tmp_path / "spoiled.tar.gz")
    page = tmp_path / "page.html"
    done = appliance("report", tmp_path / "spoiled.tar.gz", "-o", page)
    assert done.code == BundleNotIntactError.exit_code
    assert "observed/empty.log" in parse(page.read_bytes()).words


def test_a_link_in_a_bundle_is_not_followed(
    base: Path, appliance: Appliance, tmp_path: Path
) -> None:
    make_bundle(tmp_path)
    secret = tmp_path / "secret.json"
    secret.write_text('{"task": "a secret"}')
    metrics = tmp_path / "bundle" / "content" / "evaluate" / "metrics.json"
    metrics.unlink()
    metrics.symlink_to(secret)
    page = tmp_path / "page.html"
    done = appliance("report", tmp_path / "bundle", "-o", page)
    assert done.code == BundleNotIntactError.exit_code
    assert "a secret" not in page.read_text("utf-8")


@pytest.mark.parametrize("what", ["empty folder", "missing", "text", "broken archive"])
def test_what_is_no_bundle_is_refused(appliance: Appliance, tmp_path: Path, what: str) -> None:
    target = tmp_path / "target"
    if what == "empty folder":
        target.mkdir()
    elif what == "text":
        target.write_text("hello")
    elif what == "broken archive":
        target.write_bytes(b"\x1f\x8b\x08\x00 no archive")
    page = tmp_path / "page.html"
    done = appliance("report", target, "-o", page)
    assert done.code == NotABundleError.exit_code
    assert str(target) in done.err
    assert not page.exists()


def test_wrong_command_lines_are_refused(base: Path, appliance: Appliance, tmp_path: Path) -> None:
    bundle = base / "bundle"
    assert appliance("report").code == 2
    assert appliance("report", *[bundle] * 13).code == 2
    assert appliance("report", bundle, bundle, "--replay", tmp_path / "v.json").code == 2
    inside = bundle / "observed" / "page.html"
    done = appliance("report", bundle, "-o", inside)
    assert done.code == 2
    assert "would not be intact any more" in " ".join(done.err.split())
    assert not inside.exists()


def test_a_replay_that_cannot_be_read_is_an_error(
    base: Path, appliance: Appliance, tmp_path: Path
) -> None:
    verdict = tmp_path / "verdict.json"
    for content in (None, "no JSON"):
        if content is not None:
            verdict.write_text(content)
        done = appliance(
            "report", base / "bundle", "-o", tmp_path / "page.html", "--replay", verdict
        )
        assert done.code == StorageError.exit_code
        assert "verdict.json" in done.err
