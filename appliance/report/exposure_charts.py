"""Charts of exposure: draws by stage, realized against expected, and how weights are spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from appliance.report.blocks import Figure, make_table
from appliance.report.svg import (
    WIDE_PX,
    Frame,
    Scale,
    draw_line,
    draw_x_axis,
    element,
    make_figure,
    write_text,
)
from appliance.report.wording import show_count, show_share


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareRow:
    """A stage: anchors, share of the drawing probability, expected and realized draws.

    ``low`` and ``high`` hold the realized number in about 95 of 100 runs; None where draws are not
    independent.
    """

    stage: int
    anchors: int
    mass: float
    expected: float | None
    low: float | None
    high: float | None
    realized: int | None


def draw_shares(name: str, rows: Sequence[ShareRow]) -> Figure:
    """Realized draws of every stage as a deviation from the expected, with the range of chance."""
    shown = [row for row in rows if row.expected]
    ranges = any(row.low is not None for row in shown)
    reach = max((max(map(abs, _deviations(row))) for row in shown), default=0.0) * 1.15 or 0.01

    def draw(width: int) -> tuple[float, list[Markup]]:
        top, left = 40.0, 62.0
        height = top + 26.0 * len(shown) + 42.0
        frame = Frame(
            x=Scale(low=-reach, high=reach, start=left, end=width - 18.0),
            y=Scale(low=0.0, high=1.0, start=height - 42.0, end=top),
        )
        parts = _draw_share_legend(width, ranges=ranges)
        parts += draw_x_axis(frame, "draws against the expected number", show=_show_deviation)
        zero = frame.x.place(0.0)
        parts.append(draw_line(zero, top, zero, frame.bottom, class_="expected"))
        for number, row in enumerate(shown):
            parts += _draw_share(frame, row, top + 26.0 * number + 13.0)
        return height, parts

    text = " ".join(
        f"Stage {row.stage}: expected {show_count(row.expected)}"
        + (f" ({show_count(row.low)} to {show_count(row.high)})" if row.low is not None else "")
        + (f", realized {show_count(row.realized)}." if row.realized is not None else ".")
        for row in shown[:12]
    )
    return make_figure(name, "Draws by stage, realized against expected", text, draw)


def _deviations(row: ShareRow) -> list[float]:
    """Low, high and realized as shares above or below the expected."""
    expected = row.expected or 1.0
    values = [value for value in (row.low, row.high, row.realized) if value is not None]
    return [value / expected - 1 for value in values] or [0.0]


def _show_deviation(value: float) -> str:
    return "as expected" if value == 0 else f"{100 * value:+.3g} %".replace("-", "\u2212")


def _draw_share_legend(width: int, *, ranges: bool) -> list[Markup]:
    """What the signs mean, in a row."""
    gap = 150.0 if width == WIDE_PX else 96.0
    x = 12.0
    parts = [draw_line(x, 7, x, 21, class_="expected"), write_text(x + 9, 18, "expected")]
    if ranges:
        x += gap
        parts.append(draw_line(x - 10, 14, x + 12, 14, class_="range"))
        words = "95 % range of chance" if width == WIDE_PX else "95 % range"
        parts.append(write_text(x + 19, 18, words))
        x += gap * (0.45 if width == WIDE_PX else 0.2)
    x += gap
    parts.append(element("circle", cx=x, cy=14, r=5, class_="dot"))
    parts.append(write_text(x + 10, 18, "realized"))
    return parts


def _draw_share(frame: Frame, row: ShareRow, y: float) -> list[Markup]:
    expected = row.expected or 1.0
    parts = [
        write_text(frame.left - 6, y + 4, f"stage {row.stage}", text_anchor="end"),
        draw_line(frame.left, y, frame.right, y, class_="grid"),
    ]
    if row.low is not None and row.high is not None:
        low, high = (frame.x.place(value / expected - 1) for value in (row.low, row.high))
        parts.append(draw_line(low, y, high, y, class_="range"))
    zero = frame.x.place(0.0)
    parts.append(draw_line(zero, y - 8, zero, y + 8, class_="expected"))
    if row.realized is not None:
        x = frame.x.place(row.realized / expected - 1)
        parts.append(element("circle", cx=x, cy=y, r=5, class_="dot"))
    return parts


def draw_histogram(name: str, bins: Sequence[tuple[float, float, int]], mean: float) -> Figure:
    """How many anchors have which weight, as multiples of the mean."""
    most = max(count for _, _, count in bins)
    total = sum(count for _, _, count in bins)

    def draw(width: int) -> tuple[float, list[Markup]]:
        height = 16.0 + 22.0 * len(bins)
        label = 128.0
        room = width - label - 70.0
        parts: list[Markup] = []
        for number, (low, high, count) in enumerate(bins):
            y = 8.0 + 22.0 * number
            words = f"{low / mean:.2f} to {high / mean:.2f}"
            bar = room * count / most
            parts.append(write_text(label - 8, y + 14, words, text_anchor="end"))
            parts.append(element("rect", x=label, y=y + 2, width=bar, height=16, class_="weight"))
            parts.append(write_text(label + bar + 6, y + 14, show_count(count)))
        return height, parts

    table = make_table(
        f"{name}-data",
        "Anchors by weight",
        ("weight / mean", "#anchors", "#share"),
        [
            (f"{low / mean:.3f} to {high / mean:.3f}", show_count(count), show_share(count / total))
            for low, high, count in bins
        ],
    )
    text = "Number of anchors by weight, as multiples of the mean weight."
    return make_figure(name, "How the weights are spread", text, draw, table)
