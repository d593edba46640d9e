"""The report: one self-contained HTML page from the files of a bundle or of a run folder.

No script, no font, no request: the page's policy forbids every source but its own style sheet and
its videos. Every text that comes from the files is escaped where it is put out, and shown with
whatever is not printable written as an escape. The same files give the same bytes: no time of
making, no random names.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from appliance import __version__
from appliance.files import write_atomic
from appliance.report.blocks import Section
from appliance.report.evaluation_section import make_evaluation_section
from appliance.report.evidence import Evidence
from appliance.report.plan_section import make_plan_section
from appliance.report.record_section import make_record_sections, make_unread_section
from appliance.report.report_input import ReportInput
from appliance.report.run_section import make_run_section
from appliance.report.training_section import make_training_section
from appliance.report.verdict_section import make_verdict
from appliance.report.videos import VideoShelf
from appliance.report.wording import show_text

_TEMPLATES = Path(__file__).parent / "templates"


def write_report(view: ReportInput, path: Path) -> None:
    """Write the page to ``path``, replacing what is there. Raises StorageError."""
    data = render_report(view, path.parent)
    write_atomic(path, data, doing="writing the report")


def render_report(view: ReportInput, out_dir: Path) -> bytes:
    """The page for a file in ``out_dir`` (which decides its links) as UTF-8.

    Never raises for what is in the files: what cannot be read is said on the page.
    """
    evidence = Evidence(view.files)
    verdict = make_verdict(evidence, view)
    sections: list[Section] = [
        verdict.section,
        make_run_section(evidence, view),
        make_plan_section(evidence),
        make_training_section(evidence),
        make_evaluation_section(evidence, VideoShelf(view=view, out_dir=out_dir)),
        *make_record_sections(evidence, view),
    ]
    unread = make_unread_section(evidence)
    if unread is not None:
        sections.append(unread)
    return fill_template(
        "report.html.jinja",
        title=verdict.name,
        subtitle=verdict.subtitle,
        banner=verdict.banner,
        sections=sections,
    )


def fill_template(name: str, **values: Any) -> bytes:
    """A template with its style sheet, and the policy that allows nothing else, as UTF-8."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
        keep_trailing_newline=True,
    )
    environment.filters["with_code"] = _mark_code
    style = (_TEMPLATES / "report.css").read_text("utf-8").strip()
    style_hash = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; style-src 'sha256-{style_hash}'; media-src 'self' file: data:;"
        " base-uri 'none'; form-action 'none'"
    )
    text = environment.get_template(name).render(
        style=Markup(style),  # noqa: S704  (our own file)
        policy=policy,
        version=__version__,
        **values,
    )
    return text.encode("utf-8", "replace")


def _mark_code(text: str) -> Markup:
    """The text escaped, with what stands between backticks as code."""
    parts = [escape(show_text(part)) for part in text.split("`")]
    if len(parts) % 2 == 0:
        return escape(show_text(text))
    whole = Markup("")
    for number, part in enumerate(parts):
        whole += Markup("<code>{}</code>").format(part) if number % 2 else part
    return whole


def _finalize(value: object) -> object:
    """What a template puts out: our markup as it is, any other text made safe to show."""
    return show_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value
