"""A picture of one episode of a plan: state, gripper events, stages and weights over its frames.

The one module that imports matplotlib. The same plan and data give the same bytes (no date, no
random ids, fonts as outlines). Colours are those of Okabe and Ito (2008), told apart by people of
every colour vision, and no line is told by its colour alone. Letters: L frames, S state dimensions.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from appliance.errors import PlanError
from appliance.files import write_atomic
from appliance.report.plan_summary import EpisodeView
from appliance.report.state_panels import StatePanel, find_gripper_dims, group_dims

FORMATS = (".png", ".svg")

_LINES = (
    ("#0072B2", "-"),
    ("#D55E00", "--"),
    ("#009E73", "-."),
    ("#000000", ":"),
    ("#CC79A7", (0, (7, 2))),
    ("#E69F00", (0, (3, 1, 1, 1, 1, 1))),
    ("#56B4E9", (0, (1, 1))),
)
_BANDS = ("#ffffff", "#e6e6e6")
_WIDTH_IN, _LEFT_IN, _RIGHT_IN, _TOP_IN, _BOTTOM_IN = 10.0, 0.85, 1.45, 0.62, 0.5
_EVENT = "#000000"
_ANCHOR = "#0072B2"
_NO_STARTS: Mapping[str, Any] = {
    "facecolor": "none",
    "edgecolor": "#bbbbbb",
    "hatch": "///",
    "linewidth": 0,
}
_STYLE: Mapping[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "hatch.linewidth": 0.5,
    "svg.hashsalt": "plan-star",
    "svg.fonttype": "path",
    "text.parse_math": False,
}


def draw_episode(
    view: EpisodeView,
    state_NxS: NDArray[np.floating[Any]] | None,
    *,
    names: Sequence[str] | None,
    meta: Mapping[str, Any],
    path: Path,
) -> None:
    """Draw ``view`` into ``path`` (.png or .svg), replacing what is there.

    ``state_NxS`` are the whole dataset's states and ``names`` their dimensions' names; ``meta`` is
    the plan's metadata. Raises PlanError for another kind of file, StorageError.
    """
    if path.suffix.lower() not in FORMATS:
        raise PlanError(f"{path}: not a picture this can write. End it in {' or '.join(FORMATS)}.")
    state_LxS = None
    if state_NxS is not None:
        state_LxS = state_NxS[view.first_row : view.first_row + view.length]
    with mpl.rc_context():
        mpl.rcdefaults()
        style: Any = dict(_STYLE)
        mpl.rcParams.update(style)
        figure = _make_figure(view, state_LxS, names, meta)
        write_atomic(path, _encode(figure, path.suffix.lower()[1:]), doing="writing the picture")


def _encode(figure: Figure, kind: str) -> bytes:
    target = io.BytesIO()
    undated: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(target, format=kind, dpi=130, metadata=undated)
    return target.getvalue()


def _make_figure(
    view: EpisodeView,
    state_LxS: NDArray[np.floating[Any]] | None,
    names: Sequence[str] | None,
    meta: Mapping[str, Any],
) -> Figure:
    grippers = find_gripper_dims(meta, 0 if state_LxS is None else state_LxS.shape[1])
    num_dims = 0 if state_LxS is None else state_LxS.shape[1]
    panels = [*group_dims(num_dims, grippers, names)]
    heights = [0.32, *(1.0 if panel.dims == grippers else 1.7 for panel in panels), 1.5]
    height = _TOP_IN + _BOTTOM_IN + 1.2 * sum(heights)
    columns = max((_count_columns(len(panel.dims)) for panel in panels), default=1)
    figure = Figure(figsize=(_WIDTH_IN, height))
    # Fixed margins: a solver's layout may differ in its last bits from run to run.
    axes = figure.subplots(
        len(heights),
        1,
        sharex=True,
        gridspec_kw={
            "height_ratios": heights,
            "left": _LEFT_IN / _WIDTH_IN,
            "right": 1 - columns * _RIGHT_IN / _WIDTH_IN,
            "bottom": _BOTTOM_IN / height,
            "top": 1 - _TOP_IN / height,
            "hspace": 0.12,
        },
    )
    figure.text(
        _LEFT_IN / _WIDTH_IN,
        1 - 0.12 / height,
        _describe_title(view, meta),
        ha="left",
        va="top",
        fontsize=11,
    )
    figure.align_ylabels(axes[1:])
    _draw_stage_strip(axes[0], view)
    for axis, panel in zip(axes[1:-1], panels, strict=True):
        _draw_bands(axis, view)
        assert state_LxS is not None
        _draw_curves(axis, panel, state_LxS)
        if panel.dims == grippers:
            _draw_events(axis, view)
            _keep_open_range(axis)
        _place_legend(axis)
    _draw_weights(axes[-1], view)
    axes[-1].set_xlim(-0.5, view.length - 0.5)
    axes[-1].set_xlabel("frame of the episode")
    return figure


def _describe_title(view: EpisodeView, meta: Mapping[str, Any]) -> str:
    strategy = meta.get("stage_strategy")
    kind = strategy.get("type") if isinstance(strategy, Mapping) else None
    return (
        f"{meta.get('repo_id')}, episode {view.episode}: {view.length} frames,"
        f" {len(view.anchor_frames)} anchors\n"
        f"action horizon H = {meta.get('action_horizon_H')} frames, stages by {kind},"
        f" plan {str(meta.get('plan_sha256'))[:12]}"
    )


def _draw_bands(axis: Axes, view: EpisodeView) -> None:
    """Stages as alternating bands; frames no window may start at as hatching."""
    for number, span in enumerate(view.spans):
        axis.axvspan(
            span.first - 0.5, span.last - 0.5, color=_BANDS[number % 2], linewidth=0, zorder=0
        )
        if number:
            axis.axvline(span.first - 0.5, color="#999999", linewidth=0.6, zorder=0.5)
    if view.num_valid_starts < view.length:
        axis.axvspan(
            view.num_valid_starts - 0.5,
            view.length - 0.5,
            zorder=0,
            **_NO_STARTS,
        )
    axis.margins(y=0.08)


def _draw_stage_strip(axis: Axes, view: EpisodeView) -> None:
    _draw_bands(axis, view)
    axis.set_yticks([])
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.tick_params(bottom=False)
    axis.set_ylabel("stage", rotation=0, ha="right", va="center")
    for span in view.spans:
        axis.text((span.first + span.last - 1) / 2, 0.5, str(span.stage), ha="center", va="center")
    axis.set_ylim(0, 1)


def _draw_curves(axis: Axes, panel: StatePanel, state_LxS: NDArray[np.floating[Any]]) -> None:
    frames = np.arange(len(state_LxS), dtype=np.int64)
    for place, (dim, label) in enumerate(zip(panel.dims, panel.labels, strict=True)):
        color, style = _LINES[place % len(_LINES)]
        axis.plot(frames, state_LxS[:, dim], color=color, linestyle=style, label=label)
    axis.set_ylabel(panel.title.replace(" (", "\n(") if panel.has_events else panel.title)


def _draw_events(axis: Axes, view: EpisodeView) -> None:
    if view.event_frames is None or not len(view.event_frames):
        return
    axis.vlines(
        view.event_frames, 0, 1, color=_EVENT, linewidth=0.9, transform=axis.get_xaxis_transform()
    )
    axis.plot(
        view.event_frames,
        np.ones(len(view.event_frames)),
        marker="v",
        markersize=7,
        color=_EVENT,
        linestyle="none",
        transform=axis.get_xaxis_transform(),
        clip_on=False,
        label="event",
    )


def _draw_weights(axis: Axes, view: EpisodeView) -> None:
    _draw_bands(axis, view)
    relative = view.weights.astype(np.float64) / view.mean_weight
    axis.vlines(view.anchor_frames, 0, relative, color=_ANCHOR, linewidth=1.0, zorder=2)
    axis.plot(
        view.anchor_frames,
        relative,
        marker="o",
        markersize=3.5,
        linestyle="none",
        color=_ANCHOR,
        label="anchor",
        zorder=3,
    )
    axis.axhline(1.0, color="#000000", linewidth=0.8, linestyle=":", label="mean", zorder=1)
    for frame in () if view.event_frames is None else view.event_frames.tolist():
        axis.axvline(frame, color=_EVENT, linewidth=0.9, zorder=1)
    axis.set_ylim(0, None)
    axis.set_ylabel("weight\n(× mean of plan)")
    if view.num_valid_starts < view.length:
        axis.fill_between([], [], **_NO_STARTS, label="no starts")
    _place_legend(axis)


def _place_legend(axis: Axes) -> None:
    columns = _count_columns(len(axis.get_legend_handles_labels()[0]))
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.04), ncols=columns)


def _count_columns(num_labels: int) -> int:
    return min(3, max(1, -(-num_labels // len(_LINES))))


def _keep_open_range(axis: Axes) -> None:
    """Grippers from closed (0) to open (1) on every picture, unless their values leave it."""
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, -0.06), max(high, 1.06))
