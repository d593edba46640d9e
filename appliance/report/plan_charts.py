"""Charts of a plan: weights over time in every kept episode, one episode closely, stage shares.

Stages are told apart by their number, by the gap between them and by a shade that deepens from the
first to the last; anchors are bars as high as their weight; events are marked with a triangle.
Letters: A anchors of an episode, L frames, S state dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from appliance.report.blocks import Figure, make_table
from appliance.report.state_panels import StatePanel
from appliance.report.svg import (
    LETTER_PX,
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
from appliance.report.wording import show_count, show_figure

MOST_ROWS = 60
FIRST_ROWS = 12
_ROW_PX = 27.0
_EVENT_PX = 5.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EpisodeAnchors:
    """The anchors of one episode in frames of that episode, ascending.

    ``frames`` int64[A], ``stages`` int32[A], ``relative`` float64[A]: weight by the plan's mean;
    ``events`` are frames, None when the plan records none; windows may start before frame
    ``num_valid_starts``.
    """

    episode: int
    length: int
    num_valid_starts: int
    frames: NDArray[np.int64]
    stages: NDArray[np.int32]
    relative: NDArray[np.float64]
    events: NDArray[np.int64] | None
    state_LxS: NDArray[np.float64] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """Neighbouring anchors of one stage and weight: frames ``first`` to ``last`` (exclusive)."""

    stage: int
    first: float
    last: float
    relative: float


def draw_weights(
    name: str, episodes: Sequence[EpisodeAnchors], num_stages: int, *, most_rows: int
) -> Figure:
    """Kept episodes as rows, evenly chosen: weights over an episode's frames, stages, events."""
    shown = _choose_rows(episodes, most_rows)
    longest = max(each.length for each in shown)
    most = max((float(each.relative.max()) for each in shown if len(each.relative)), default=1.0)

    def draw(width: int) -> tuple[float, list[Markup]]:
        left = 36.0
        height = 18.0 + _ROW_PX * len(shown) + 42.0
        frame = Frame(
            x=Scale(low=0.0, high=longest, start=left, end=width - 10.0),
            y=Scale(low=0.0, high=1.0, start=height - 42.0, end=18.0),
        )
        parts = [write_text(2, 12, "episode", class_="small")]
        for number, each in enumerate(shown):
            parts += _draw_row(frame, each, 18.0 + _ROW_PX * (number + 1), most, num_stages)
        parts += draw_x_axis(frame, "frame of the episode", show=show_count)
        return height, parts

    title = "Weights over time, stages and events in " + (
        "every kept episode"
        if len(shown) == len(episodes)
        else f"{len(shown)} of the {len(episodes)} kept episodes"
    )
    return make_figure(name, title, _describe_weights(shown, most), draw, _tabulate(name, shown))


def _choose_rows(episodes: Sequence[EpisodeAnchors], most_rows: int) -> list[EpisodeAnchors]:
    if len(episodes) <= most_rows:
        return list(episodes)
    places = [number * (len(episodes) - 1) // (most_rows - 1) for number in range(most_rows)]
    return [episodes[place] for place in places]


def _draw_row(
    frame: Frame, each: EpisodeAnchors, bottom: float, most: float, num_stages: int
) -> list[Markup]:
    room = _ROW_PX - 12.0
    parts = [
        write_text(frame.left - 6, bottom - 3, str(each.episode), text_anchor="end"),
        draw_line(frame.left, bottom, frame.x.place(each.length), bottom, class_="axis"),
    ]
    if each.num_valid_starts < each.length:
        parts.append(_draw_no_starts(frame, each, bottom, room))
    labelled: set[int] = set()
    for run in _join_anchors(each):
        x1, x2 = frame.x.place(run.first), frame.x.place(run.last)
        bar = room * run.relative / most
        parts.append(
            element(
                "rect",
                x=round(x1 + 0.4, 2),
                y=round(bottom - bar, 2),
                width=round(max(0.6, x2 - x1 - 0.8), 2),
                height=round(bar, 2),
                class_="weight",
                fill_opacity=_shade(run.stage, num_stages),
            )
        )
        if run.stage not in labelled and x2 - x1 > LETTER_PX * len(str(run.stage)) + 3:
            labelled.add(run.stage)
            y = bottom - bar - 2 if bar < room * 0.6 else bottom - 3
            inside = bar >= room * 0.6 and _shade(run.stage, num_stages) > 0.55
            kind = "stage-inside" if inside else "stage"
            parts.append(
                write_text((x1 + x2) / 2, y, str(run.stage), text_anchor="middle", class_=kind)
            )
    parts += _draw_triangles(frame, each, bottom - room - 8)
    return parts


def _draw_no_starts(frame: Frame, each: EpisodeAnchors, bottom: float, room: float) -> Markup:
    """Frames at which no window may start, as slanted lines."""
    x, end = frame.x.place(each.num_valid_starts), frame.x.place(each.length)
    size = min(8.0, room)
    d = []
    while x < end:
        reach = min(size, end - x)
        d.append(f"M{x:.1f} {bottom:.1f}l{reach:.1f} {-reach:.1f}")
        x += 5.0
    return element("path", d="".join(d), class_="no-starts")


def _draw_triangles(frame: Frame, each: EpisodeAnchors, top: float) -> list[Markup]:
    if each.events is None or not len(each.events):
        return []
    d = "".join(
        f"M{frame.x.place(float(event) + 0.5) - _EVENT_PX:.1f} {top - 1:.1f}"
        f"h{2 * _EVENT_PX:.1f}l{-_EVENT_PX:.1f} {1.5 * _EVENT_PX:.1f}Z"
        for event in each.events.tolist()
    )
    return [element("path", d=d, class_="event")]


def _join_anchors(each: EpisodeAnchors) -> Iterator[_Run]:
    """Neighbouring anchors of equal stage and weight as one run; an anchor reaches to the next."""
    frames = each.frames.tolist()
    gaps = np.diff(each.frames)
    stride = int(gaps.min()) if len(gaps) else 1
    current: _Run | None = None
    for frame, stage, relative in zip(
        frames, each.stages.tolist(), each.relative.tolist(), strict=True
    ):
        last = min(frame + stride, each.length)
        same = (
            current is not None
            and current.stage == stage
            and current.relative == relative
            and current.last == frame
        )
        if current is not None and same:
            current = _Run(stage=stage, first=current.first, last=last, relative=relative)
            continue
        if current is not None:
            yield current
        current = _Run(stage=stage, first=frame, last=last, relative=relative)
    if current is not None:
        yield current


def _shade(stage: int, num_stages: int) -> float:
    """From 0.4 for the first stage to 1 for the last."""
    return round(0.4 + 0.6 * stage / max(1, num_stages - 1), 3) if num_stages > 1 else 0.8


def _describe_weights(shown: Sequence[EpisodeAnchors], most: float) -> str:
    events = [each.events for each in shown if each.events is not None]
    text = (
        f"{len(shown)} episodes of {min(each.length for each in shown)} to"
        f" {max(each.length for each in shown)} frames. Each row is an episode, each bar an anchor"
        " or neighbouring anchors of one stage and weight; its height is the weight, the tallest"
        f" {show_figure(most, 3)} times the plan's mean. Numbers name the stages, which are shaded"
        " deeper from first to last."
    )
    if events:
        text += f" Triangles mark {sum(len(each) for each in events)} gripper events."
    if any(each.num_valid_starts < each.length for each in shown):
        text += " Slanted lines mark frames at which no window may start."
    return text


def _tabulate(name: str, shown: Sequence[EpisodeAnchors]) -> Any:
    rows = []
    for each in shown:
        stages = np.unique(each.stages).tolist()
        bounds = [
            f"{stage}: {int(each.frames[each.stages == stage][0])}-"
            f"{int(each.frames[each.stages == stage][-1])}"
            for stage in stages[:12]
        ]
        rows.append(
            (
                str(each.episode),
                str(each.length),
                str(len(each.frames)),
                ", ".join(bounds),
                show_figure(float(each.relative.min()), 3) if len(each.relative) else "",
                show_figure(float(each.relative.max()), 3) if len(each.relative) else "",
                "" if each.events is None else ", ".join(map(str, each.events.tolist()[:20])),
            )
        )
    columns = (
        "episode",
        "#frames",
        "#anchors",
        "stages (first-last anchor)",
        "#least weight / mean",
        "#greatest",
        "events at",
    )
    return make_table(f"{name}-data", "Stages, weights and events by episode", columns, rows)


def draw_episode(
    name: str, each: EpisodeAnchors, panels: Sequence[StatePanel], num_stages: int
) -> Figure:
    """One episode closely: state curves over its frames with stages and events, then weights."""
    state = each.state_LxS
    shown = [] if state is None else list(panels)

    def draw(width: int) -> tuple[float, list[Markup]]:
        legend = 20.0
        panel_px = 130.0
        sizes = [panel_px + legend * _count_legend_rows(panel, width) for panel in shown]
        height = 30.0 + sum(size + 34.0 for size in sizes) + 96.0 + 42.0
        x = Scale(low=0.0, high=each.length, start=52.0, end=width - 12.0)
        parts: list[Markup] = []
        top = 30.0
        if state is not None:
            for panel, size in zip(shown, sizes, strict=True):
                frame = _panel_frame(x, state, panel, top, panel_px)
                parts += _draw_panel(frame, each, state, panel, width)
                top += size + 34.0
        most = float(each.relative.max()) if len(each.relative) else 1.0
        frame = Frame(x=x, y=Scale(low=0.0, high=most * 1.3, start=height - 42.0, end=top))
        parts += draw_y_axis(frame, "weight / mean", most=3)
        parts += _draw_stage_bounds(frame, each, labels=True)
        parts += _draw_bars(frame, each, num_stages)
        parts += draw_x_axis(frame, "frame of the episode", show=show_count)
        return height, parts

    text = f"{each.length} frames, {len(each.frames)} anchors." + (
        " Dashed upright lines are stage bounds." if len(np.unique(each.stages)) > 1 else ""
    )
    if each.events is not None:
        text += f" Triangles mark gripper events at frames {each.events.tolist() or 'none'}."
    return make_figure(name, f"Episode {each.episode}", text, draw)


def _panel_frame(
    x: Scale, state: NDArray[np.float64], panel: StatePanel, top: float, height: float
) -> Frame:
    values = state[:, list(panel.dims)]
    low, high = float(values.min()), float(values.max())
    margin = 0.06 * (high - low) or 0.5
    return Frame(x=x, y=Scale(low=low - margin, high=high + margin, start=top + height, end=top))


def _draw_panel(
    frame: Frame,
    each: EpisodeAnchors,
    state: NDArray[np.float64],
    panel: StatePanel,
    width: int,
) -> list[Markup]:
    parts = draw_y_axis(frame, panel.title, most=4)
    parts += _draw_stage_bounds(frame, each, labels=False)
    parts.append(draw_line(frame.left, frame.bottom, frame.right, frame.bottom, class_="axis"))
    for place, dim in enumerate(panel.dims):
        points = [
            (frame.x.place(number + 0.5), frame.y.place(value))
            for number, value in enumerate(state[:, dim].tolist())
        ]
        parts.append(draw_polyline(points, class_=f"curve c{place % 7}"))
    if panel.has_events:
        parts += _draw_triangles(frame, each, frame.top)
    per_row = _legend_columns(panel, width)
    column = (width - 64.0) / per_row
    for place, label in enumerate(panel.labels):
        left = 52.0 + column * (place % per_row)
        y = frame.bottom + 16.0 + 20.0 * (place // per_row)
        parts.append(draw_line(left, y - 4, left + 26, y - 4, class_=f"curve c{place % 7}"))
        parts.append(write_text(left + 31, y, label))
    return parts


def _legend_columns(panel: StatePanel, width: int) -> int:
    longest = max(len(label) for label in panel.labels)
    return max(1, int((width - 64.0) // (longest * LETTER_PX + 44.0)))


def _count_legend_rows(panel: StatePanel, width: int) -> int:
    return -(-len(panel.labels) // _legend_columns(panel, width))


def _draw_stage_bounds(frame: Frame, each: EpisodeAnchors, *, labels: bool) -> list[Markup]:
    parts: list[Markup] = []
    if not len(each.frames):
        return parts
    changes = np.flatnonzero(np.diff(each.stages, prepend=each.stages[0] - 1)).tolist()
    firsts = [int(each.frames[change]) for change in changes]
    ends = [*firsts[1:], each.num_valid_starts]
    for number, (change, first, end) in enumerate(zip(changes, firsts, ends, strict=True)):
        x = frame.x.place(first)
        if number:
            parts.append(draw_line(x, frame.top, x, frame.bottom, class_="bound"))
        stage = str(int(each.stages[change]))
        words = f"stage {stage}"
        room = frame.x.place(end) - x
        if labels and room > LETTER_PX * len(stage):
            text = words if room > LETTER_PX * len(words) else stage
            middle = x + room / 2
            parts.append(
                write_text(middle, frame.top + 11, text, text_anchor="middle", class_="small")
            )
    return parts


def _draw_bars(frame: Frame, each: EpisodeAnchors, num_stages: int) -> list[Markup]:
    parts = []
    for frame_number, stage, relative in zip(
        each.frames.tolist(), each.stages.tolist(), each.relative.tolist(), strict=True
    ):
        x, y = frame.x.place(frame_number + 0.5), frame.y.place(relative)
        parts.append(
            draw_line(
                x, frame.bottom, x, y, class_="stem", stroke_opacity=_shade(stage, num_stages)
            )
        )
    return parts
