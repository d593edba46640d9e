"""Charts as inline SVG: elements, scales with round ticks, and a frame to draw in.

Nothing carries a colour of its own: elements have classes, and the page's style sheet gives them
colours for a light, a dark and a printed page. The same values give the same bytes. Lengths are in
pixels of the drawing, y downwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from appliance.report.blocks import Figure, Table
from appliance.report.wording import show_figure, show_text

WIDE_PX, NARROW_PX = 880, 320
LETTER_PX = 6.6
"""About the width of a letter at the charts' 12 px."""

Value = str | float | int


def element(tag: str, *children: Markup, **attributes: Value) -> Markup:
    """An element; ``_`` in a name stands for ``-``, a final one is dropped (``class_``)."""
    parts = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_value(value))}"'
        for name, value in attributes.items()
    )
    inside = "".join(children)
    return Markup(f"<{tag}{parts}>{inside}</{tag}>" if inside else f"<{tag}{parts}/>")  # noqa: S704


def write_text(x: float, y: float, text: str, **attributes: Value) -> Markup:
    """A line of text; ``text`` may be anything."""
    return element("text", _escaped(text), x=x, y=y, **attributes)


def draw_line(x1: float, y1: float, x2: float, y2: float, **attributes: Value) -> Markup:
    """A straight line."""
    return element("path", d=f"M{_value(x1)} {_value(y1)}L{_value(x2)} {_value(y2)}", **attributes)


def draw_polyline(points: Iterable[tuple[float, float]], **attributes: Value) -> Markup:
    """Joined points, without a fill."""
    d = "L".join(f"{_value(x)} {_value(y)}" for x, y in points)
    return element("path", d=f"M{d}", fill="none", **attributes)


def draw_band(
    xs: Sequence[float], lows: Sequence[float], highs: Sequence[float], **attributes: Value
) -> Markup:
    """The area between two lines over the same ``xs``."""
    outline = [*zip(xs, highs, strict=True), *reversed(list(zip(xs, lows, strict=True)))]
    d = "L".join(f"{_value(x)} {_value(y)}" for x, y in outline)
    return element("path", d=f"M{d}Z", **attributes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Maps values from [low, high] to pixels from ``start`` to ``end``; logarithmic if asked."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """The pixel of ``value``."""
        low, high, at = self.low, self.high, value
        if self.logarithmic:
            low, high, at = math.log10(low), math.log10(high), math.log10(value)
        share = (at - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def find_ticks(self, most: int) -> list[float]:
        """Round values inside the range, at most about ``most``."""
        return _log_ticks(self, most) if self.logarithmic else _round_ticks(self, most)


def _round_ticks(scale: Scale, most: int) -> list[float]:
    span = scale.high - scale.low
    if span <= 0 or not math.isfinite(span):
        return [scale.low]
    rough = span / max(1, most)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.999)
    first = math.ceil(scale.low / step - 1e-9)
    last = math.floor(scale.high / step + 1e-9)
    return [float(f"{number * step:.10g}") for number in range(first, last + 1)]


def _log_ticks(scale: Scale, most: int) -> list[float]:
    first, last = math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high))
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [
            step * 10.0**power
            for power in range(first, last + 1)
            for step in steps
            if scale.low * 0.999 <= step * 10.0**power <= scale.high * 1.001
        ]
        if len(ticks) <= most:
            return ticks
    every = -(-len(ticks) // most)
    return ticks[::every]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The rectangle of a chart with its two scales."""

    x: Scale
    y: Scale

    @property
    def left(self) -> float:
        """The left edge."""
        return self.x.start

    @property
    def right(self) -> float:
        """The right edge."""
        return self.x.end

    @property
    def top(self) -> float:
        """The upper edge."""
        return min(self.y.start, self.y.end)

    @property
    def bottom(self) -> float:
        """The lower edge."""
        return max(self.y.start, self.y.end)


def draw_x_axis(
    frame: Frame, label: str, *, show: Callable[[float], str] = show_figure, most: int = 7
) -> list[Markup]:
    """Ticks, numbers and a label below the frame (about 36 px)."""
    parts = [draw_line(frame.left, frame.bottom, frame.right, frame.bottom, class_="axis")]
    room = (frame.right - frame.left) / 52
    for tick in frame.x.find_ticks(max(2, min(most, int(room)))):
        x = frame.x.place(tick)
        parts.append(draw_line(x, frame.bottom, x, frame.bottom + 4, class_="axis"))
        parts.append(write_text(x, frame.bottom + 17, show(tick), text_anchor="middle"))
    middle = (frame.left + frame.right) / 2
    parts.append(write_text(middle, frame.bottom + 33, label, text_anchor="middle", class_="label"))
    return parts


def draw_y_axis(
    frame: Frame, label: str, *, show: Callable[[float], str] = show_figure, most: int = 5
) -> list[Markup]:
    """Grid lines, numbers left of the frame, and the label above it, where it needs no turning."""
    parts = []
    for tick in frame.y.find_ticks(most):
        y = frame.y.place(tick)
        parts.append(draw_line(frame.left, y, frame.right, y, class_="grid"))
        parts.append(write_text(frame.left - 6, y + 4, show(tick), text_anchor="end"))
    parts.append(write_text(4, frame.top - 12, label, class_="label"))
    return parts


def make_figure(
    name: str,
    title: str,
    text: str,
    draw: Callable[[int], tuple[float, list[Markup]]],
    table: Table | None = None,
) -> Figure:
    """A figure drawn twice, for wide and for narrow pages.

    ``draw`` takes a width and gives a height and the elements; ``text`` says in words what the
    picture shows.
    """

    def draw_svg(kind: str, width: int) -> Markup:
        height, parts = draw(width)
        return element(
            "svg",
            element("title", _escaped(title), id=f"{name}-{kind}-title"),
            element("desc", _escaped(text), id=f"{name}-{kind}-desc"),
            *parts,
            class_=kind,
            viewBox=f"0 0 {width} {_value(height)}",
            width=width,
            height=height,
            role="img",
            aria_labelledby=f"{name}-{kind}-title {name}-{kind}-desc",
        )

    return Figure(
        name=name,
        title=title,
        text=text,
        wide=draw_svg("wide", WIDE_PX),
        narrow=draw_svg("narrow", NARROW_PX),
        table=table,
    )


def _escaped(text: str) -> Markup:
    return escape(show_text(text))


def _value(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".") if math.isfinite(value) else "0"
    return str(value)
