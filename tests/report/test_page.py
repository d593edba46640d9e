"""The page without a browser: deterministic, escaped, self-contained, readable whatever it gets."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.report import videos
from appliance.report.page import render_report, write_report
from appliance.report.report_input import StageState
from tests.report.markup import Markup, parse
from tests.report.sample_run import MANIFEST, make_view, write_value

Files = dict[str, Path]
SECTIONS = ("verdict", "run", "plan", "training", "evaluation", "environment", "hashes", "verify")
OWN_TAGS = frozenset(
    "html head meta title style body a header h1 h2 p strong span code nav ul li main section"  # noqa: SIM905
    " dl div dt dd table caption thead tbody tr th td details summary figure figcaption pre video"
    " footer svg desc path rect circle text".split()
)
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg onload=alert(1)>",
    "</title><script src=//evil.example></script>",
    "</style><style>*{display:none}</style>",
    "javascript:alert(1)",
    "{{ 7*7 }}{% raw %}",
    "\u202egnp.exe\u2066\u0000\u001b[31m\ud800",
)


def render(files: Files, **changes: Any) -> Markup:
    return parse(render_report(make_view(files, **changes), Path("/somewhere")))


def test_the_same_files_make_the_same_bytes(files: Files, copy_files: Callable[[], Files]) -> None:
    place = "observed/report.html"
    first = render_report(make_view(files, place=place), Path("/a"))
    assert render_report(make_view(copy_files(), place=place), Path("/b")) == first
    reversed_order = dict(reversed(files.items()))
    assert render_report(make_view(reversed_order, place=place), Path("/c")) == first


def test_the_page_has_every_section_and_a_link_to_each(files: Files) -> None:
    markup = render(files)
    ids = [attributes["id"] for attributes in markup.find("section")]
    assert tuple(ids) == SECTIONS
    links = [attributes["href"] for attributes in markup.find("a")]
    assert links[: len(SECTIONS) + 1] == ["#content", *(f"#{name}" for name in SECTIONS)]


def test_ids_are_unique_and_references_lead_somewhere(files: Files) -> None:
    markup = render(files)
    ids = [attributes["id"] for _, attributes in markup.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in markup.tags:
        for name in attributes.get("aria-labelledby", "").split():
            assert name in ids
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids


def test_figures_of_the_run_are_on_the_page(files: Files) -> None:
    words = render(files).words
    for figure in (
        "66.7 %",
        "4 of 6 episodes",
        "773 488 trained parameters",
        "expert_checked; 1 scene seed skipped",
        "58" * 32,
        "2 min 25 s, in 2 sessions",
        "0.5 times the peak",
        "not a RoboTwin score",
    ):
        assert figure in words.replace("\u202f", " ").replace("\u00a0", " "), figure


def test_every_chart_says_in_words_what_it_shows_and_is_drawn_for_wide_and_narrow(
    files: Files,
) -> None:
    drawings = render(files).find("svg")
    wide = [each for each in drawings if each["class"] == "wide"]
    assert len(wide) * 2 == len(drawings) >= 20
    assert all(each["role"] == "img" and each["aria-labelledby"] for each in drawings)


def test_nothing_is_loaded_from_anywhere(files: Files) -> None:
    page = render_report(make_view(files), Path("/somewhere"))
    markup = parse(page)
    for _, attributes in markup.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
            assert not re.match(r"(?i)\s*([a-z]+:)?//", attributes.get(name, ""))
    style = re.search(rb"<style>(.*)</style>", page, re.DOTALL)
    assert style is not None
    assert b"url(" not in style[1]
    assert b"@import" not in style[1]


def test_the_gpus_and_their_driver_are_named(files: Files) -> None:
    text = parse(render_report(make_view(files), Path("/somewhere"))).words
    assert "NVIDIA H100" in text
    assert "GPU driver 570.86.15" in text


def test_the_policy_allows_the_style_sheet_by_its_hash_and_no_script(files: Files) -> None:
    page = render_report(make_view(files), Path("/somewhere"))
    style = re.search(rb"<style>(.*)</style>", page, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1]).digest()).decode()
    policies = [
        each["content"]
        for each in parse(page).find("meta")
        if each.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1
    assert policies[0].startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    assert "script-src" not in policies[0]
    assert "unsafe" not in policies[0]


def spoil(value: Any, text: str) -> Any:
    """Every text in a JSON value replaced; keys too, where they are not the format's own."""
    if isinstance(value, str):
        return text
    if isinstance(value, list):
        return [spoil(each, text) for each in value]
    if isinstance(value, dict):
        return {key: spoil(each, text) for key, each in value.items()}
    return value


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_anywhere_stays_text(copy_files: Callable[[], Files], text: str) -> None:
    files = copy_files()
    for name, path in files.items():
        if path.suffix == ".json":
            value = spoil(json.loads(path.read_text("utf-8")), text)
            if name == "observed/lock.json":
                value["packages"] = {text: text}
                value["sources"] = {text: text}
            path.write_text(json.dumps(value), "utf-8")
        elif path.suffix == ".jsonl":
            rows = [spoil(json.loads(line), text) for line in path.read_text("utf-8").splitlines()]
            write_value(path.parent, path.name, rows)
        elif path.suffix == ".yaml":
            path.write_text(text.encode("utf-8", "replace").decode(), "utf-8")
    markup = render(files, name=text, manifest=spoil(MANIFEST, text), content_digest=text)
    check_only_own_elements(markup)
    shown = text.encode("unicode_escape", "surrogatepass").decode() if "\u202e" in text else text
    assert " ".join(shown.split()) in markup.words


def test_hostile_file_names_stay_text(files: Files, sample_folder: Path) -> None:
    source = sample_folder / "content/manifest.json"
    names = {f"content/{text}".replace("\ud800", "?"): source for text in HOSTILE}
    check_only_own_elements(render({**files, **names}))


def check_only_own_elements(markup: Markup) -> None:
    for tag, attributes in markup.tags:
        assert tag in OWN_TAGS
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("href", "src"):
            if name in attributes:
                assert attributes[name].startswith(("#", "./", "../", "data:video/mp4;base64,"))
    assert len(markup.find("style")) == 1
    joined = "".join(markup.text)
    assert "\u202e" not in joined
    assert "\u001b" not in joined


def test_a_video_is_linked_only_when_it_is_a_file_of_the_bundle(
    copy_files: Callable[[], Files],
) -> None:
    files = copy_files()
    path = files["observed/evaluate/_metrics.json"]
    value = json.loads(path.read_text("utf-8"))
    for row, name in zip(
        value["episode_rows"],
        ("../../../etc/passwd", "javascript:alert(1).mp4", "http://a.example/b.mp4", 7, None),
        strict=False,
    ):
        row["video"] = name
    path.write_text(json.dumps(value), "utf-8")
    sources = [each["src"] for each in render(files, place="observed/report.html").find("video")]
    assert sources == ["./evaluate/videos/episode_5.mp4"]


def test_videos_are_linked_from_where_the_page_lies(files: Files, tmp_path: Path) -> None:
    inside = render(files, place="observed/report.html").find("video")
    assert inside[0]["src"] == "./evaluate/videos/episode_0.mp4"
    page = tmp_path / "reports" / "page.html"
    write_report(make_view(files), page)
    for each in parse(page.read_bytes()).find("video"):
        assert (page.parent / each["src"]).resolve().is_file()


def test_videos_go_into_the_page_while_there_is_room(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = files["observed/evaluate/videos/episode_0.mp4"].read_bytes()
    sources = [each["src"] for each in render(files, embed_videos=True).find("video")]
    assert len(sources) == 6
    assert base64.b64decode(sources[0].removeprefix("data:video/mp4;base64,")) == wanted
    monkeypatch.setattr(videos, "MAX_EMBEDDED_BYTES", int(len(wanted) * 1.5))
    sources = [each["src"] for each in render(files, embed_videos=True).find("video")]
    assert [source.startswith("data:") for source in sources] == [True] + [False] * 5


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_page_comes_out_whatever_is_in_the_files(
    data: st.DataObject, files: Files, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("garbage")
    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
        ),
        max_leaves=6,
    )
    spoiled = dict(files)
    for name in data.draw(st.sets(st.sampled_from(sorted(files)), min_size=1, max_size=6)):
        original = files[name].read_bytes()
        kind = data.draw(st.sampled_from(("bytes", "cut", "json", "field", "gone")))
        if kind == "gone":
            del spoiled[name]
            continue
        content = data.draw(st.binary(max_size=60))
        if kind == "cut":
            content = original[: data.draw(st.integers(0, len(original)))]
        elif kind == "json":
            content = json.dumps(data.draw(json_values)).encode("utf-8", "surrogatepass")
        elif kind == "field" and name.endswith(".json"):
            value = json.loads(original)
            value[data.draw(st.sampled_from(sorted(value)))] = data.draw(json_values)
            content = json.dumps(value).encode("utf-8", "surrogatepass")
        spoiled[name] = folder / f"{len(list(folder.iterdir()))}"
        spoiled[name].write_bytes(content)
    markup = parse(render_report(make_view(spoiled), folder))
    check_only_own_elements(markup)
    assert [each["id"] for each in markup.find("section")][: len(SECTIONS)] == list(SECTIONS)


def test_what_cannot_be_read_is_named(copy_files: Callable[[], Files]) -> None:
    files = copy_files()
    files["content/train/curve.jsonl"].write_bytes(b'{"step": 0, "loss": 1.0}\n{"step"')
    files["content/plan/plan_arrays.npz"].write_bytes(b"no")
    markup = render(files)
    assert "unread" in [each["id"] for each in markup.find("section")]
    assert "content/train/curve.jsonl line 2 is not a JSON object" in markup.words.replace("✘ ", "")
    assert "The plan's files cannot be read" in markup.words


def test_an_edited_plan_is_not_drawn(copy_files: Callable[[], Files]) -> None:
    files = copy_files()
    meta = files["content/plan/plan_meta.json"]
    meta.write_text(meta.read_text("utf-8").replace('"plan_seed":0', '"plan_seed":1'), "utf-8")
    assert "Plan sha256 mismatch" in render(files).words


def test_a_baseline_without_a_plan_says_so(files: Files) -> None:
    kept = {name: path for name, path in files.items() if "/plan/" not in name}
    words = render(kept, manifest={**MANIFEST, "plan": None}).words
    assert "There is no plan: every frame may start a window" in words
    assert "none: the baseline, uniform shuffling" in words


def test_an_unfinished_run_says_what_is_missing(files: Files, sample_folder: Path) -> None:
    kept = {
        name: path
        for name, path in files.items()
        if "/evaluate" not in name and "run_summary" not in name
    }
    states = [("dataset", "done"), ("plan", "done"), ("norm_stats", "done")]
    states += [("train", "unfinished"), ("evaluate", "not run")]
    stages = tuple(StageState(name=name, state=state) for name, state in states)
    words = render(kept, stages=stages, levels=()).words
    assert "Unfinished run. Not done yet: train, evaluate." in words
    assert "Training has not finished: 300 steps are recorded so far." in words
    assert "Nothing was evaluated yet." in words
    assert "not evaluated" in words


@pytest.mark.parametrize(
    ("claim", "word"),
    [
        ({"value": 0.6, "margin": 0.3}, "inconclusive: within the margin, not confirmed"),
        ({"value": 0.6, "margin": 0.6}, "confirmed by exact tests"),
        ({"value": 0.1, "margin": 0.2}, "outside the margin"),
    ],
)
def test_the_claimed_rate_is_judged_by_exact_tests(
    files: Files, claim: dict[str, float], word: str
) -> None:
    expect = {"success_rate": {**claim, "alpha": 0.05}}
    assert word in render(files, manifest={**MANIFEST, "expect": expect}).words


def test_a_figure_that_differs_from_the_expected_one_is_in_the_banner(files: Files) -> None:
    expect = {"norm_stats_sha256": "99" * 32}
    words = render(files, manifest={**MANIFEST, "expect": expect}).words
    assert "Not as expected. Came out differently than the manifest expects" in words
    assert "99" * 32 in words
    assert "✘ differs" in words
    equal = {"norm_stats_sha256": "12" * 32}
    words = render(files, manifest={**MANIFEST, "expect": equal}).words
    assert "Every figure the manifest expects came out." in words


def test_realized_draws_outside_the_range_of_chance_are_marked(
    copy_files: Callable[[], Files],
) -> None:
    files = copy_files()
    path = files["content/train/run_summary.json"]
    assert "outside the range" not in render(files).words
    value = json.loads(path.read_text("utf-8"))
    value["realized_draws_per_stage"][0] += 400
    path.write_text(json.dumps(value), "utf-8")
    assert "? outside the range" in render(files).words
