"""The page in a real browser: what a person with eyes, a keyboard, a phone or a printer gets."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.report.page import write_report
from tests.report.browser import Browser
from tests.report.sample_run import make_view

Files = dict[str, Path]
LOADED = ("file", "data", "about")
FOCUSABLE = "a[href], summary, video[controls], [tabindex='0']"


@pytest.fixture(scope="module")
def page(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample run's report with links to its videos."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(make_view(files), path)
    return path


@pytest.fixture(scope="module")
def embedded(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the videos inside, far from the files."""
    path = tmp_path_factory.mktemp("alone") / "report.html"
    write_report(make_view(files, embed_videos=True), path)
    return path


@pytest.fixture(autouse=True)
def usual_screen(browser: Browser) -> None:
    browser.emulate()
    browser.resize(1200, 900)
    browser.send("Emulation.setScriptExecutionDisabled", value=False)


def complaints(browser: Browser) -> list[object]:
    """What the browser reported: errors, warnings, blocked sources, exceptions."""
    kinds = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    return [parameters for name, parameters in browser.events if name in kinds]


def requested(browser: Browser) -> list[str]:
    return [
        parameters["request"]["url"]
        for name, parameters in browser.events
        if name == "Network.requestWillBeSent"
    ]


def test_it_loads_without_a_complaint_and_asks_nobody_for_anything(
    browser: Browser, page: Path, embedded: Path
) -> None:
    for each in (page, embedded):
        browser.open(each)
        browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        browser.evaluate("new Promise(done => setTimeout(done, 300))")
        assert complaints(browser) == []
        assert requested(browser)[0] == each.as_uri()
        schemes = {url.partition(":")[0] for url in requested(browser)}
        assert schemes <= set(LOADED)


def test_the_policy_holds_in_the_browser(browser: Browser, page: Path, tmp_path: Path) -> None:
    """A script, a picture and an inline style that somehow got in would not work."""
    spoiled = tmp_path / "spoiled.html"
    text = page.read_text("utf-8").replace(
        "</main>",
        "<script>document.title = 'hacked'</script><img src='http://127.0.0.1:9/x.png'>"
        "<p id='styled' style='color: rgb(1, 2, 3)'>x</p></main>",
    )
    spoiled.write_text(text, "utf-8")
    browser.open(spoiled)
    assert browser.evaluate("document.title") == "sample-run: audit report"
    styled = "getComputedStyle(document.getElementById('styled')).color"
    assert browser.evaluate(styled) != "rgb(1, 2, 3)"
    said = str(complaints(browser))
    assert "script" in said
    assert "x.png" in said
    blocked = [
        parameters.get("blockedReason")
        for name, parameters in browser.events
        if name == "Network.loadingFailed"
    ]
    assert blocked == ["csp"]
    assert not [name for name, _ in browser.events if name == "Network.responseReceivedExtraInfo"]


@pytest.mark.parametrize("width", [320, 360, 412, 740, 900, 1400])
def test_the_page_is_never_wider_than_the_screen(browser: Browser, page: Path, width: int) -> None:
    browser.resize(width, 740, phone=width < 500)
    browser.open(page)
    for opened in ("false", "true"):
        browser.evaluate(f"document.querySelectorAll('details').forEach(d => d.open = {opened})")
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        sticking_out = browser.evaluate(
            "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, pre, svg,"
            " .unseen, .skip') && e.getBoundingClientRect().right > innerWidth + 1)"
            ".map(e => e.outerHTML.slice(0, 80))"
        )
        assert sticking_out == []


def test_one_drawing_of_each_chart_is_shown_and_its_letters_can_be_read(
    browser: Browser, page: Path
) -> None:
    for width, kind in ((360, "narrow"), (1200, "wide")):
        browser.resize(width, 740, phone=width < 500)
        browser.open(page)
        browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        shown = browser.evaluate(
            "[...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width)"
            ".map(s => [s.getAttribute('class'), s.getBoundingClientRect().width /"
            " s.viewBox.baseVal.width])"
        )
        assert len(shown) >= 10
        assert {name for name, _ in shown} == {kind}
        assert all(scale > 0.9 for _, scale in shown)
        outside = browser.evaluate(
            "[...document.querySelectorAll('svg text')].filter(t => { const a ="
            " t.getBoundingClientRect(), b = t.ownerSVGElement.getBoundingClientRect(); return"
            " a.width && (a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 ||"
            " a.bottom > b.bottom + 1) }).map(t => t.textContent)"
        )
        assert outside == []


def test_the_keyboard_reaches_everything_in_the_order_of_the_page(
    browser: Browser, page: Path
) -> None:
    browser.open(page)
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    browser.evaluate(
        f"[...document.querySelectorAll({FOCUSABLE!r})].forEach((e, i) => e.dataset.place = i)"
    )
    count = browser.evaluate(f"document.querySelectorAll({FOCUSABLE!r}).length")
    assert count > 60
    places: list[int] = []
    first_inside: str | None = None
    for _ in range(6 * count):
        browser.press("Tab", 9)
        place = browser.evaluate("document.activeElement.dataset.place ?? null")
        if first_inside is None:
            first_inside = browser.evaluate("document.activeElement.className")
        if place is not None and (not places or places[-1] != int(place)):
            if places and int(place) < places[-1]:
                break
            places.append(int(place))
        if len(places) == count:
            break
    assert first_inside == "skip"
    assert places == list(range(count))


def test_focus_is_visible_and_the_skip_link_leads_to_the_report(
    browser: Browser, page: Path
) -> None:
    browser.open(page)
    browser.press("Tab", 9)
    box = browser.evaluate("(r => [r.left, r.top])(document.activeElement.getBoundingClientRect())")
    assert min(box) >= 0
    outline = "getComputedStyle(document.activeElement)"
    assert browser.evaluate(f"{outline}.outlineStyle") == "solid"
    assert browser.evaluate(f"parseFloat({outline}.outlineWidth)") >= 2
    browser.press("Enter", 13, "\r")
    assert browser.evaluate("location.hash") == "#content"


def test_a_fold_opens_by_the_keyboard_without_any_script(browser: Browser, page: Path) -> None:
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(page)
    first = "document.querySelector('main details')"
    assert browser.evaluate(f"{first}.open") is False
    browser.evaluate(f"{first}.querySelector('summary').focus()")
    browser.press("Enter", 13, "\r")
    assert browser.evaluate(f"{first}.open") is True


def test_videos_play_from_their_files_and_from_inside_the_page(
    browser: Browser, page: Path, embedded: Path
) -> None:
    for each in (page, embedded):
        browser.open(each)
        if not browser.evaluate(
            "document.createElement('video').canPlayType('video/mp4; codecs=\"avc1.42E01E\"')"
        ):
            pytest.skip("this browser was built without H.264")
        browser.evaluate("document.querySelector('.video').open = true")
        played = browser.evaluate(
            "new Promise((done, fail) => { const v = document.querySelector('video'); v.muted ="
            " true; v.onended = () => done([v.videoWidth, v.videoHeight, v.duration]); v.onerror ="
            " () => fail(new Error(v.error.message)); v.playbackRate = 4; v.play().catch(fail) })"
        )
        assert played == [288, 216, 1]
        assert complaints(browser) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_axe_finds_no_violation(browser: Browser, page: Path, scheme: str, width: int) -> None:
    browser.emulate(prefers_color_scheme=scheme)
    browser.resize(width, 900, phone=width < 500)
    browser.open(page)
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert find_violations(browser) == []


def find_violations(browser: Browser) -> object:
    """What axe-core finds wrong with the page that is open."""
    browser.evaluate(read_axe() + "; 1")
    return browser.evaluate(
        "axe.run(document, {resultTypes: ['violations']}).then(r => r.violations.map(v =>"
        " [v.id, v.help, v.nodes.slice(0, 3).map(n => n.html.slice(0, 200))]))"
    )


def read_axe() -> str:
    spec = importlib.util.find_spec("axe_playwright_python")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("axe-core is not installed (the dev extra has it)")
    return (Path(spec.submodule_search_locations[0]) / "axe.min.js").read_text("utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_contrast_with_the_page(browser: Browser, page: Path, scheme: str) -> None:
    """Lines and marks have 3:1 at least against the page, letters 4.5:1 (WCAG 1.4.11, 1.4.3)."""
    browser.emulate(prefers_color_scheme=scheme)
    browser.open(page)
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    background = luminance(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    seen = browser.evaluate(
        "[...document.querySelectorAll('svg .line, svg .curve, svg .dot, svg .failure,"
        " svg .success, svg .whisker, svg .event, svg .expected,"
        " svg text:not(.stage):not(.stage-inside)')]"
        ".map(e => { const s = getComputedStyle(e); const by = e.matches('.line, .curve, .failure,"
        " .whisker, .expected') ? s.stroke : s.fill; return [e.tagName + '.' +"
        " e.getAttribute('class'), by] })"
    )
    assert len({name for name, _ in seen}) >= 12
    for name, color in {tuple(each) for each in seen}:
        light, dark = sorted((luminance(color), background), reverse=True)
        needed = 4.5 if name.startswith("text") else 3.0
        assert (light + 0.05) / (dark + 0.05) >= needed, (name, color)


def luminance(color: str) -> float:
    """Relative luminance (WCAG 2.2) of ``rgb(r, g, b)``."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_print_shows_everything_on_white_pages(
    browser: Browser, page: Path, tmp_path: Path, scheme: str
) -> None:
    browser.emulate(prefers_color_scheme=scheme)
    browser.open(page)
    pdf = tmp_path / "page.pdf"
    pdf.write_bytes(browser.print_pdf())
    browser.emulate(media="print", prefers_color_scheme=scheme)
    assert (
        browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    )
    hidden = browser.evaluate(
        "[...document.querySelectorAll('details > *:not(summary):not(video)')].filter(e =>"
        " !e.checkVisibility({contentVisibilityAuto: true})).map(e => e.outerHTML.slice(0, 80))"
    )
    assert hidden == []
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext (poppler-utils) is not there to read the printed pages")
    text = subprocess.run(
        ("pdftotext", "-layout", str(pdf), "-"), capture_output=True, text=True, check=True
    ).stdout
    for words in ("every default filled in", '"stride": 2', "action_out_proj/bias", "numpy"):
        assert words in text, words
    assert text.count("\f") >= 5
