"""Charts of an evaluation: the success rate with its interval, and how it came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from appliance.evaluation.statistics import wilson_interval
from appliance.report.blocks import Cell, Figure, make_table
from appliance.report.svg import (
    WIDE_PX,
    Frame,
    Scale,
    draw_band,
    draw_line,
    draw_polyline,
    draw_x_axis,
    draw_y_axis,
    element,
    make_figure,
    write_text,
)
from appliance.report.wording import count_of, show_count, show_share


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A success rate declared before training, and how far from it counts as the same."""

    value: float
    margin: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A success rate with its interval, all as fractions; ``label`` says whose."""

    label: str
    successes: int
    episodes: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """Successes by episodes."""
        return self.successes / self.episodes if self.episodes else 0.0


def draw_rates(name: str, rates: Sequence[Rate], claim: Claim | None) -> Figure:
    """Each rate as a point with whiskers on one axis from 0 to 100 %."""
    text = " ".join(
        f"{rate.label}: {show_share(rate.value)} ({rate.successes} of {rate.episodes}), interval"
        f" {show_share(rate.low)} to {show_share(rate.high)}."
        for rate in rates
    )
    if claim is not None:
        text += (
            f" Declared before training: {show_share(claim.value)} within"
            f" {100 * claim.margin:.1f} percentage points."
        )

    def draw(width: int) -> tuple[float, list[Markup]]:
        top = 34.0 if claim is not None else 14.0
        height = top + 46.0 * len(rates) + 42.0
        frame = Frame(
            x=Scale(low=0.0, high=1.0, start=18.0, end=width - 24.0),
            y=Scale(low=0.0, high=1.0, start=height - 42.0, end=top),
        )
        parts = _draw_claim(frame, claim) if claim is not None else []
        for number, rate in enumerate(rates):
            parts += _draw_rate(frame, rate, top + 46.0 * number + 30.0)
        parts += draw_x_axis(
            frame, "success rate", show=lambda tick: f"{100 * tick:.0f} %", most=10
        )
        return height, parts

    table = make_table(
        f"{name}-data",
        "Success rates and intervals",
        ("whose", "#successes", "#episodes", "#rate", "#low", "#high"),
        [
            (
                rate.label,
                str(rate.successes),
                str(rate.episodes),
                show_share(rate.value),
                show_share(rate.low),
                show_share(rate.high),
            )
            for rate in rates
        ],
    )
    return make_figure(name, "Success rate and its interval", text, draw, table)


def _draw_claim(frame: Frame, claim: Claim) -> list[Markup]:
    low, high = max(0.0, claim.value - claim.margin), min(1.0, claim.value + claim.margin)
    left, right = frame.x.place(low), frame.x.place(high)
    middle = min(max((left + right) / 2, frame.left + 84), frame.right - 84)
    return [
        element(
            "rect",
            x=left,
            y=frame.top,
            width=max(1.0, right - left),
            height=frame.bottom - frame.top,
            class_="claim",
        ),
        draw_line(left, frame.top, left, frame.bottom, class_="claim-edge"),
        draw_line(right, frame.top, right, frame.bottom, class_="claim-edge"),
        write_text(middle, frame.top - 8, "declared before training", text_anchor="middle"),
    ]


def _draw_rate(frame: Frame, rate: Rate, y: float) -> list[Markup]:
    low, high, at = (frame.x.place(value) for value in (rate.low, rate.high, rate.value))
    text = f"{rate.label}: {show_share(rate.value)}"
    anchor, x = ("start", low) if low < (frame.left + frame.right) / 2 else ("end", high)
    return [
        write_text(x, y - 12, text, text_anchor=anchor, class_="strong"),
        draw_line(low, y, high, y, class_="whisker"),
        draw_line(low, y - 6, low, y + 6, class_="whisker"),
        draw_line(high, y - 6, high, y + 6, class_="whisker"),
        element("circle", cx=at, cy=y, r=6, class_="dot"),
    ]


def draw_running_rate(
    name: str, outcomes: Sequence[bool], confidence: float, claim: Claim | None
) -> Figure:
    """The rate over the first 1, 2, ... episodes with its interval; a mark for each episode."""
    rates, lows, highs = [], [], []
    successes = 0
    for count, success in enumerate(outcomes, start=1):
        successes += success
        interval = wilson_interval(successes, count, confidence)
        rates.append(successes / count)
        lows.append(interval.low)
        highs.append(interval.high)
    total = len(outcomes)

    def draw(width: int) -> tuple[float, list[Markup]]:
        height = 270.0 if width == WIDE_PX else 250.0
        frame = Frame(
            x=Scale(low=0.5, high=total + 0.5, start=52.0, end=width - 12.0),
            y=Scale(low=0.0, high=1.0, start=height - 68.0, end=30.0),
        )
        xs = [frame.x.place(number) for number in range(1, total + 1)]
        parts = draw_y_axis(frame, "success rate so far", show=lambda tick: f"{100 * tick:.0f} %")
        parts.append(
            draw_band(
                xs,
                [frame.y.place(value) for value in lows],
                [frame.y.place(value) for value in highs],
                class_="band",
            )
        )
        if claim is not None:
            for value in (claim.value - claim.margin, claim.value + claim.margin):
                if 0 <= value <= 1:
                    y = frame.y.place(value)
                    parts.append(draw_line(frame.left, y, frame.right, y, class_="claim-edge"))
        line = [(x, frame.y.place(rate)) for x, rate in zip(xs, rates, strict=True)]
        parts.append(draw_polyline(line, class_="line"))
        marks = Frame(x=frame.x, y=Scale(low=0, high=1, start=height - 42.0, end=height - 64.0))
        parts += _draw_marks(xs, outcomes, (marks.top + marks.bottom) / 2)
        parts += draw_x_axis(marks, "episodes", show=show_count)
        return height, parts

    points = sorted({*range(0, total, max(1, total // 12)), total - 1})
    table = make_table(
        f"{name}-data",
        "Success rate so far",
        ("episodes", "#rate", "#low", "#high"),
        [
            (str(p + 1), show_share(rates[p]), show_share(lows[p]), show_share(highs[p]))
            for p in points
        ],
    )
    text = (
        f"Success rate over the first episodes with its {show_share(confidence, 0)} interval as a"
        f" band. After all {total} episodes: {show_share(rates[-1])}, interval"
        f" {show_share(lows[-1])} to {show_share(highs[-1])}. Below, a filled disk for each success"
        " and a cross for each failure, in the order of the trials."
    )
    return make_figure(name, "Success rate as the episodes came in", text, draw, table)


def _draw_marks(xs: Sequence[float], outcomes: Sequence[bool], y: float) -> list[Markup]:
    """A disk for each success, a cross for each failure, as two paths."""
    size = min(4.5, max(1.2, (xs[1] - xs[0]) * 0.4 if len(xs) > 1 else 4.5))
    disks, crosses = [], []
    for x, success in zip(xs, outcomes, strict=True):
        if success:
            disks.append(
                f"M{x - size:.1f} {y:.1f}a{size:.1f} {size:.1f} 0 1 0 {2 * size:.1f} 0"
                f"a{size:.1f} {size:.1f} 0 1 0 {-2 * size:.1f} 0Z"
            )
        else:
            a, b, c, d = x - size, x + size, y - size, y + size
            crosses.append(f"M{a:.1f} {c:.1f}L{b:.1f} {d:.1f}M{a:.1f} {d:.1f}L{b:.1f} {c:.1f}")
    parts = [element("path", d="".join(disks), class_="success")] if disks else []
    if crosses:
        parts.append(element("path", d="".join(crosses), class_="failure"))
    return parts


def draw_steps(name: str, steps_by_outcome: dict[str, list[int]], limit: int) -> Figure:
    """How many actions the episodes took, a row of dots for each outcome."""
    rows = [(outcome, sorted(steps)) for outcome, steps in steps_by_outcome.items() if steps]

    def draw(width: int) -> tuple[float, list[Markup]]:
        row_px, label_px = 54.0, 18.0
        height = 8.0 + (row_px + label_px) * len(rows) + 42.0
        frame = Frame(
            x=Scale(low=0.0, high=max(1, limit), start=18.0, end=width - 18.0),
            y=Scale(low=0, high=1, start=height - 42.0, end=8.0),
        )
        parts: list[Markup] = []
        for number, (outcome, steps) in enumerate(rows):
            bottom = 8.0 + (row_px + label_px) * (number + 1) - 2
            parts.append(draw_line(frame.left, bottom, frame.right, bottom, class_="grid"))
            parts.append(
                write_text(
                    frame.left, bottom - row_px + 2, f"{outcome} ({len(steps)})", class_="strong"
                )
            )
            parts += _stack_marks(frame, steps, bottom, row_px - 8, success=outcome == "success")
        parts += draw_x_axis(frame, "actions until the episode ended", show=show_count)
        return height, parts

    table = make_table(
        f"{name}-data",
        "Actions until the episode ended",
        ("outcome", "#episodes", "#fewest", "#median", "#most"),
        [(outcome, *_spread(steps)) for outcome, steps in rows],
    )
    text = " ".join(
        f"{outcome}: {count_of(len(steps), 'episode')}, {steps[0]} to {steps[-1]} actions,"
        f" median {steps[len(steps) // 2]}."
        for outcome, steps in rows
    )
    return make_figure(name, "How long the episodes took", text, draw, table)


def _spread(steps: Sequence[int]) -> tuple[Cell, ...]:
    figures = (len(steps), steps[0], steps[len(steps) // 2], steps[-1])
    return tuple(Cell(text=str(figure)) for figure in figures)


def _stack_marks(
    frame: Frame, steps: Sequence[int], bottom: float, room: float, *, success: bool
) -> list[Markup]:
    """Equal or near values stacked upwards, closer together where there are many."""
    piles: dict[int, int] = {}
    places = []
    for step in steps:
        slot = round(frame.x.place(step) / 9)
        piles[slot] = piles.get(slot, 0) + 1
        places.append((9.0 * slot, piles[slot] - 1))
    gap = min(9.0, room / max(piles.values()))
    parts: list[Markup] = []
    for x, level in places:
        parts += _draw_marks([x], [success], bottom - 6 - gap * level)
    return parts
