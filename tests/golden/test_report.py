"""The report of a bundle that a real chain made."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle.checks import read_attestation
from appliance.bundle.layout import ATTESTATION_FILE
from appliance.bundle.verify import verify_bundle
from appliance.errors import BundleNotIntactError, NotABundleError
from appliance.stages.run_files import read_run_input
from appliance.stages.run_folder import RunFolder
from tests.conftest import Appliance
from tests.golden.conftest import Workplace
from tests.report.markup import parse


def test_every_bundle_holds_a_report_on_itself(smoke: dict[str, Any]) -> None:
    page = Path(smoke["bundle"]) / "observed" / "report.html"
    markup = parse(page.read_bytes())
    assert "unread" not in [each["id"] for each in markup.find("section")]
    assert smoke["content_digest"] in markup.words
    assert "Recorded, not checked" in markup.words
    videos = markup.find("video")
    assert len(videos) == 2
    assert all((page.parent / each["src"]).is_file() for each in videos)
    figures = [each["id"] for each in markup.find("figure") if "id" in each]
    assert {"durations", "weights", "draws", "loss", "rate", "running-rate"} <= set(figures)


def test_the_report_is_signed_but_no_part_of_the_content(smoke: dict[str, Any]) -> None:
    bundle = Path(smoke["bundle"])
    statement = read_attestation((bundle / ATTESTATION_FILE).read_bytes()).statement
    assert statement is not None
    assert "observed/report.html" in statement.subjects
    assert not list((bundle / "content").rglob("*.html"))
    report = verify_bundle(bundle)
    assert report.intact
    assert report.content_digest == smoke["content_digest"]


def test_the_command_reports_on_bundle_and_run_folder_alike(
    smoke: dict[str, Any], workplace: Workplace, appliance: Appliance, tmp_path: Path
) -> None:
    keys = ("--key-dir", workplace.folder / "keys")
    pages = []
    for number, target in enumerate((smoke["bundle"], smoke["run_dir"], smoke["bundle"])):
        page = tmp_path / f"{number}.html"
        done = appliance("report", target, "--out", page, *keys, "--embed-videos")
        assert done.code == 0, done.err
        assert "touch_block-smoke: trusted" in done.out
        pages.append(page.read_bytes())
    assert pages[0] == pages[1] == pages[2]
    markup = parse(pages[0])
    assert "Intact, signer trusted" in markup.words
    assert all(each["src"].startswith("data:video/mp4") for each in markup.find("video"))


def test_a_changed_bundle_gets_a_page_that_warns_and_an_exit_code(
    smoke: dict[str, Any], appliance: Appliance, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(smoke["bundle"], bundle)
    metrics = bundle / "content/evaluate/metrics.json"
    metrics.write_text(metrics.read_text("utf-8").replace('"successes": 0', '"successes": 2'))
    page = tmp_path / "page.html"
    done = appliance("report", bundle, "--out", page, "--json")
    assert done.code == BundleNotIntactError.exit_code
    words = parse(page.read_bytes()).words
    assert "Not intact" in words
    assert "Do not use the figures below." in words
    assert "content/evaluate/metrics.json" in words


def test_a_page_is_never_written_into_a_bundle(smoke: dict[str, Any], appliance: Appliance) -> None:
    inside = Path(smoke["bundle"]) / "observed" / "mine.html"
    done = appliance("report", smoke["bundle"], "--out", inside)
    assert done.code == 2
    assert "--out" in done.err
    assert not inside.exists()


def test_what_is_no_bundle_is_refused(appliance: Appliance, tmp_path: Path) -> None:
    done = appliance("report", tmp_path, "--out", tmp_path / "page.html")
    assert done.code == NotABundleError.exit_code
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("lost", ["evaluate", "train"])
def test_a_run_that_stopped_is_reported_as_far_as_it_came(
    smoke: dict[str, Any], tmp_path: Path, appliance: Appliance, lost: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(smoke["run_dir"], run, symlinks=True)
    (place,) = (run / "stages").glob(f"{lost}-*")
    (place / "receipt.json").unlink()
    states = {
        each.name: each.state for each in read_run_input(RunFolder(run), embed_videos=False).stages
    }
    assert states[lost] == "unfinished"
    assert states["norm_stats"] == "done"
    page = tmp_path / "page.html"
    done = appliance("report", run, "--out", page)
    assert done.code == 0, done.err
    words = parse(page.read_bytes()).words
    assert "Unfinished run." in words
    assert "Nothing here is signed" in words
