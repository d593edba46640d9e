"""Charts of several bundles: curves over each other, differences of success rates."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from appliance.evaluation.compare import Comparison
from appliance.report.blocks import Cell, Figure, make_table
from appliance.report.svg import (
    WIDE_PX,
    Frame,
    Scale,
    draw_line,
    draw_polyline,
    draw_x_axis,
    draw_y_axis,
    element,
    make_figure,
    write_text,
)
from appliance.report.training_charts import LOG_RATIO, MOST_BUCKETS, Point, fill_buckets
from appliance.report.wording import show_count, show_figure

_LINE_KINDS = 7


def draw_curves(name: str, label: str, curves: Sequence[tuple[str, Sequence[Point]]]) -> Figure:
    """Medians of neighbouring steps, a line for each (letter, points); each has a point at least.

    Lines differ in colour and dashes, and end in their letter.
    """
    values = [value for _, points in curves for _, value in points]
    low, high = min(values), max(values)
    logarithmic = low > 0 and high / low > LOG_RATIO and "rate" not in label
    margin = 0.05 * (high - low) or abs(high) * 0.1 or 1.0
    span = (low / 1.08, high * 1.08) if logarithmic else (min(0.0, low), high + margin)
    last = max(points[-1][0] for _, points in curves)
    axis = f"{label} (logarithmic scale)" if logarithmic else label

    def draw(width: int) -> tuple[float, list[Markup]]:
        legend = 22.0
        height = 290.0
        frame = Frame(
            x=Scale(low=0.0, high=max(last, 1), start=58.0, end=width - 26.0),
            y=Scale(
                low=span[0],
                high=span[1],
                start=height - 42.0,
                end=34.0 + legend,
                logarithmic=logarithmic,
            ),
        )
        parts = draw_y_axis(frame, axis)
        parts += draw_x_axis(frame, "step", show=show_count)
        for number, (letter, points) in enumerate(curves):
            kind = f"curve c{number % _LINE_KINDS}"
            buckets = fill_buckets(points, MOST_BUCKETS if width == WIDE_PX else MOST_BUCKETS // 2)
            line = [(frame.x.place(each.middle), frame.y.place(each.median)) for each in buckets]
            parts.append(draw_polyline(line, class_=kind))
            parts.append(write_text(line[-1][0] + 5, line[-1][1] + 4, letter, class_="strong"))
            x = 8.0 + 62.0 * (number % (13 if width == WIDE_PX else 5))
            y = 12.0 + 12.0 * (number // (13 if width == WIDE_PX else 5))
            parts.append(draw_line(x, y, x + 32, y, class_=kind))
            parts.append(write_text(x + 37, y + 4, letter))
        return height, parts

    rows: list[tuple[Cell | str, ...]] = []
    for letter, points in curves:
        buckets = fill_buckets(points, 8)
        rows += [
            (
                letter,
                f"{each.first}-{each.last}",
                show_figure(each.median),
                show_figure(each.low),
                show_figure(each.high),
            )
            for each in buckets
        ]
    columns = ("of", "steps", "#median", "#least", "#greatest")
    table = make_table(f"{name}-data", f"{label.capitalize()} by steps", columns, rows)
    text = " ".join(
        f"{letter}: from {show_figure(points[0][1])} to {show_figure(points[-1][1])} in"
        f" {len(points)} steps."
        for letter, points in curves
    )
    return make_figure(name, label.capitalize(), text, draw, table)


def draw_differences(name: str, first: str, compared: Sequence[tuple[str, Comparison]]) -> Figure:
    """The first's success rate less each other's, in percentage points with 95 % intervals."""
    reach = max(max(abs(found.interval.low), abs(found.interval.high)) for _, found in compared)
    reach = min(1.0, reach * 1.15 or 0.1)

    def draw(width: int) -> tuple[float, list[Markup]]:
        top = 12.0
        height = top + 44.0 * len(compared) + 42.0
        frame = Frame(
            x=Scale(low=-reach, high=reach, start=18.0, end=width - 24.0),
            y=Scale(low=0.0, high=1.0, start=height - 42.0, end=top),
        )
        zero = frame.x.place(0.0)
        parts = [draw_line(zero, top, zero, frame.bottom, class_="expected")]
        for number, (letter, found) in enumerate(compared):
            y = top + 44.0 * number + 30.0
            low, high, at = (
                frame.x.place(value)
                for value in (found.interval.low, found.interval.high, found.difference)
            )
            words = f"{first} less {letter}: {100 * found.difference:+.1f} points"
            anchor, x = ("start", low) if low < width / 2 else ("end", high)
            parts += [
                write_text(x, y - 12, words, text_anchor=anchor, class_="strong"),
                draw_line(low, y, high, y, class_="whisker"),
                draw_line(low, y - 6, low, y + 6, class_="whisker"),
                draw_line(high, y - 6, high, y + 6, class_="whisker"),
                element("circle", cx=at, cy=y, r=6, class_="dot"),
            ]
        parts += draw_x_axis(frame, "difference in percentage points", show=_show_points)
        return height, parts

    text = " ".join(
        f"{first} less {letter}: {100 * found.difference:+.1f} points, 95 % interval"
        f" {100 * found.interval.low:+.1f} to {100 * found.interval.high:+.1f}."
        for letter, found in compared
    )
    return make_figure(name, "Difference of the success rates", text, draw)


def _show_points(value: float) -> str:
    return "0" if value == 0 else f"{100 * value:+.3g}".replace("-", "\u2212")
