"""Charts: ticks inside their axes, buckets that lose no step, figures that say what they draw."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from appliance.report.evaluation_charts import Claim, Rate, draw_rates, draw_running_rate
from appliance.report.svg import Scale, element, write_text
from appliance.report.training_charts import draw_curve, fill_buckets

values = st.floats(-1e12, 1e12)


@given(low=values, span=st.floats(1e-9, 1e12), most=st.integers(1, 12))
def test_ticks_are_inside_the_axis_and_ascending(low: float, span: float, most: int) -> None:
    scale = Scale(low=low, high=low + span, start=0.0, end=100.0)
    ticks = scale.find_ticks(most)
    assert len(ticks) <= most + 2
    assert ticks == sorted(ticks)
    slack = 1e-6 * max(abs(low), span)
    assert all(low - slack <= tick <= low + span + slack for tick in ticks)


@given(low=st.floats(1e-12, 1e9), ratio=st.floats(21, 1e12), most=st.integers(2, 8))
def test_logarithmic_ticks_are_inside_the_axis(low: float, ratio: float, most: int) -> None:
    scale = Scale(low=low, high=low * ratio, start=0.0, end=100.0, logarithmic=True)
    ticks = scale.find_ticks(most)
    assert 1 <= len(ticks) <= most
    assert all(low * 0.99 <= tick <= low * ratio * 1.01 for tick in ticks)


@given(low=values, span=st.floats(0, 1e12), share=st.floats(0, 1))
def test_a_value_inside_the_range_is_placed_inside_the_axis(
    low: float, span: float, share: float
) -> None:
    scale = Scale(low=low, high=low + span, start=10.0, end=90.0)
    assert 9.999 <= scale.place(min(low + share * span, low + span)) <= 90.001


@given(values=st.lists(values, min_size=1, max_size=500), most=st.integers(1, 60))
def test_every_step_is_in_one_bucket(values: list[float], most: int) -> None:
    points = list(enumerate(values))
    buckets = fill_buckets(points, most)
    assert len(buckets) <= most
    assert buckets[0].first == 0
    assert buckets[-1].last == len(values) - 1
    assert all(a.last + 1 == b.first for a, b in itertools.pairwise(buckets))
    assert min(each.low for each in buckets) == min(values)
    assert max(each.high for each in buckets) == max(values)
    assert all(each.low <= each.median <= each.high for each in buckets)


@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=40))
def test_any_curve_can_be_drawn(values: list[float]) -> None:
    figure = draw_curve("c", "C", "value", list(enumerate(values)))
    assert "nan" not in figure.wide
    assert "inf" not in figure.wide.replace("information", "")


def test_a_curve_says_where_it_starts_and_ends() -> None:
    figure = draw_curve("loss", "Loss", "loss", [(step, 100.0 / (step + 1)) for step in range(100)])
    assert "median 18.33 over the first tenth" in figure.text
    assert "greatest 100 at step 0" in figure.text
    assert "(logarithmic scale)" in figure.wide


def test_text_and_attributes_are_escaped() -> None:
    assert write_text(0, 0, "<b>&") == '<text x="0" y="0">&lt;b&gt;&amp;</text>'
    assert element("a", title='"><x>') == '<a title="&#34;&gt;&lt;x&gt;"/>'


def test_the_running_rate_ends_with_the_rate() -> None:
    figure = draw_running_rate("r", [True, False, True, True], 0.95, Claim(value=0.9, margin=0.1))
    assert "After all 4 episodes: 75.0" in figure.text
    assert figure.table is not None
    assert [cell.text for cell in figure.table.rows[-1][:2]] == ["4", "75.0\u00a0%"]


def test_rates_at_the_ends_stay_inside_the_picture() -> None:
    for successes in (0, 10):
        low, high = (0.0, 0.3) if not successes else (0.7, 1.0)
        rate = Rate(label="x" * 30, successes=successes, episodes=10, low=low, high=high)
        figure = draw_rates("r", [rate], Claim(value=1.0, margin=0.05))
        assert math.isclose(rate.value, successes / 10)
        assert "declared before training" in figure.wide
