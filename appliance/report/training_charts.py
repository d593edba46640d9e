"""The curves of training: a value for every step, drawn as a median with its spread.

A run has more steps than a screen has pixels, so neighbouring steps share a bucket: the line is the
bucket's median, the band reaches from its least to its greatest value. No step is left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from appliance.report.blocks import Cell, Figure, Table, make_table
from appliance.report.svg import (
    WIDE_PX,
    Frame,
    Scale,
    draw_band,
    draw_polyline,
    draw_x_axis,
    draw_y_axis,
    make_figure,
)
from appliance.report.wording import show_count, show_figure

MOST_BUCKETS = 190
TABLE_ROWS = 24
LOG_RATIO = 20.0

Point = tuple[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Steps ``first`` to ``last`` (inclusive) and the values in them."""

    first: int
    last: int
    low: float
    median: float
    high: float

    @property
    def middle(self) -> float:
        """Where the bucket stands on the axis."""
        return (self.first + self.last) / 2


def fill_buckets(points: Sequence[Point], most: int) -> list[Bucket]:
    """Buckets of equally many consecutive points, at most ``most``; every point is in one."""
    size = max(1, -(-len(points) // most))
    buckets = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        values = [value for _, value in part]
        buckets.append(
            Bucket(
                first=part[0][0],
                last=part[-1][0],
                low=min(values),
                median=statistics.median(values),
                high=max(values),
            )
        )
    return buckets


def draw_curve(
    name: str, title: str, label: str, points: Sequence[Point], *, from_zero: bool = False
) -> Figure:
    """A figure of ``points`` (step, value), at least one, with ascending steps."""
    values = [value for _, value in points]
    low, high = min(values), max(values)
    logarithmic = low > 0 and high / low > LOG_RATIO and not from_zero
    bounds = _widen(low, high, logarithmic=logarithmic, from_zero=from_zero)
    first, last = points[0][0], points[-1][0]
    axis = f"{label} (logarithmic scale)" if logarithmic else label

    def draw(width: int) -> tuple[float, list[Markup]]:
        height = 250.0 if width == WIDE_PX else 230.0
        frame = Frame(
            x=Scale(low=first, high=max(last, first + 1), start=58.0, end=width - 12.0),
            y=Scale(
                low=bounds[0],
                high=bounds[1],
                start=height - 42.0,
                end=30.0,
                logarithmic=logarithmic,
            ),
        )
        buckets = fill_buckets(points, MOST_BUCKETS if width == WIDE_PX else MOST_BUCKETS // 2)
        xs = [frame.x.place(each.middle) for each in buckets]
        lows = [frame.y.place(each.low) for each in buckets]
        highs = [frame.y.place(each.high) for each in buckets]
        medians = [frame.y.place(each.median) for each in buckets]
        return height, [
            *draw_y_axis(frame, axis),
            *draw_x_axis(frame, "step", show=show_count),
            draw_band(xs, lows, highs, class_="band"),
            draw_polyline(zip(xs, medians, strict=True), class_="line"),
        ]

    return make_figure(name, title, _describe(label, points), draw, _tabulate(name, label, points))


def _widen(low: float, high: float, *, logarithmic: bool, from_zero: bool) -> tuple[float, float]:
    """The span of the axis: that of the values with a margin."""
    if logarithmic:
        return low / 1.08, high * 1.08
    margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return (0.0 if from_zero and low >= 0 else low - margin), high + margin


def _describe(label: str, points: Sequence[Point]) -> str:
    steps = [step for step, _ in points]
    least = min(points, key=lambda point: point[1])
    most = max(points, key=lambda point: point[1])
    tenth = max(1, len(points) // 10)
    start = statistics.median(value for _, value in points[:tenth])
    end = statistics.median(value for _, value in points[-tenth:])
    return (
        f"{label.capitalize()} from step {steps[0]} to {steps[-1]}: median"
        f" {show_figure(start)} over the first tenth of the steps, {show_figure(end)} over the"
        f" last; least {show_figure(least[1])} at step {least[0]}, greatest"
        f" {show_figure(most[1])} at step {most[0]}. The line is the median of neighbouring steps,"
        " the band reaches from their least to their greatest value."
    )


def _tabulate(name: str, label: str, points: Sequence[Point]) -> Table:
    rows: list[tuple[Cell | str, ...]] = [
        (
            str(each.first) if each.first == each.last else f"{each.first}-{each.last}",
            show_figure(each.median),
            show_figure(each.low),
            show_figure(each.high),
        )
        for each in fill_buckets(points, TABLE_ROWS)
    ]
    columns = ("steps", "#median", "#least", "#greatest")
    return make_table(f"{name}-data", f"{label.capitalize()} by steps", columns, rows)
