"""The pages' drawings, and the band that they show: it says what the decision rule says."""

from __future__ import annotations

import datetime as dt
import itertools
import math
import random
import re
import xml.etree.ElementTree as ET

import msgspec
import pytest

from cloud.analysis.decide import decide
from cloud.analysis.records import Days, DecideInput, Metric, Minimum, Pairs
from cloud.rollout.band import band, band_of
from cloud.web import charts, charts_days, drawings, formats
from cloud.web.charts import Line, Part, Scale
from cloud.web.charts_days import Answered, Estimate, Mark

ROLES = {"v1": "older", "v1.1": "incumbent", "v2": "candidate"}
_CORNER = re.compile(r"(-?[\d.]+),(-?[\d.]+)")


def parse(drawing: object) -> ET.Element:
    return ET.fromstring(str(drawing))


def corners(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in _CORNER.findall(path)]


def texts(root: ET.Element) -> dict[str, ET.Element]:
    return {one.text or "": one for one in root.iter("text")}


def day(i: int) -> str:
    return (dt.date(2013, 6, 1) + dt.timedelta(days=i)).isoformat()


def change(value: float) -> str:
    return formats.change(value, "continuous")


def draw_band(estimates: list[Estimate], marks: list[Mark] | None = None, margin: float = 0.02) -> ET.Element:
    drawn = charts_days.band_chart(
        estimates, marks or [Mark(day(0), "Shadow")], margin=margin, role="candidate", write=change, label="a < b"
    )
    return parse(drawn)


# ---- the band


def _pairs(rng: random.Random, gain: float, n_days: int) -> Pairs:
    cells = [(rng.randint(20, 60), rng.gauss(gain, 0.03)) for _ in range(24)]
    n = float(sum(m for m, _ in cells))
    sums = [m * mean for m, mean in cells]
    days = [(n / n_days, n / n_days * rng.gauss(sum(sums) / n, 0.01)) for _ in range(n_days)]
    return Pairs(
        n=n,
        sum=sum(sums),
        sumsq=n * 0.1,
        g=24.0,
        g_nn=float(sum(m * m for m, _ in cells)),
        g_ns=sum(m * s for (m, _), s in zip(cells, sums, strict=True)),
        g_ss=sum(s * s for s in sums),
        days=Days(float(n_days), sum(m * m for m, _ in days), sum(m * s for m, s in days), sum(s * s for _, s in days)),
    )


@pytest.mark.parametrize("seed", range(60))
def test_the_band_clears_the_limit_when_the_rule_promotes_and_zero_when_it_rolls_back(seed: int) -> None:
    rng = random.Random(seed)
    margin = 0.02
    asked = DecideInput(
        schema="covey.decide/1",
        mode="canary",
        alpha=0.05,
        alpha_promote=0.01,
        margin=margin,
        n_candidates=1,
        metric=Metric("continuous", "lower"),
        strata=(),
        pairs=_pairs(rng, rng.uniform(-0.08, 0.08), rng.randint(3, 20)),
        minimum=Minimum(outcomes=0, devices=0, days=0),
    )
    decision = decide(asked)
    drawn = band_of(msgspec.to_builtins(asked), decision.numbers)
    assert drawn is not None
    assert drawn.low < decision.numbers["difference"] < drawn.high
    assert (decision.word == "rollback") == (drawn.high < 0)
    if decision.word != "rollback":
        assert (decision.word == "promote") == (drawn.low > -margin)


def test_there_is_no_band_while_there_is_nothing_to_compare() -> None:
    assert band_of({}, {}) is None
    assert band_of({"margin": 0.02, "pairs": None}, {"difference": 0.0, "devices": 0.0}) is None


def test_more_evidence_makes_the_band_narrower() -> None:
    widths = []
    for error in (0.02, 0.01, 0.005):
        drawn = band(0.0, error, 23.0, margin=0.02, need_worse=3.0, need_fine=4.6)
        widths.append(drawn.high - drawn.low)
    assert widths == sorted(widths, reverse=True)


# ---- scales and labels


@pytest.mark.parametrize(("low", "high"), [(-0.04, 0.1), (-1e-4, 3e-4), (0, 7), (-250, 990), (0.1, 0.11)])
def test_ticks_are_round_few_and_inside(low: float, high: float) -> None:
    seen = charts.ticks(low, high)
    assert 2 <= len(seen) <= 9
    assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in seen)
    step = seen[1] - seen[0]
    mantissa = step / 10 ** math.floor(math.log10(step * 1.0000001))
    assert round(mantissa, 6) in (1, 2, 5)


def test_a_scale_without_width_puts_everything_in_the_middle() -> None:
    assert Scale(3, 3, 0, 10)(3) == 5


def test_what_comes_from_outside_is_escaped_in_text_and_attributes() -> None:
    root = parse(charts.bar([Part("good", 1, '"><script>')]))
    assert root.attrib["aria-label"] == '1 "><script>'
    drawn = charts_days.band_chart(
        [Estimate(day(1), 0, 0, 0)],
        [Mark(day(0), "<b>")],
        margin=0.02,
        role="candidate",
        write=change,
        label="<i>",
    )
    assert "<b>" not in drawn
    assert "<i>" not in drawn
    assert "<b>" in texts(parse(drawn))


def test_no_drawing_carries_a_style_or_a_colour_of_its_own() -> None:
    drawn = [
        charts.sparkline([Line("older", [(0, 1), (1, 2)])], "x"),
        charts.bar([Part("good", 1, "a")]),
        charts_days.share_chart([Answered(day(0), {"v1": 1})], ROLES, first=day(0), last=day(9), label="x"),
        charts_days.band_chart([Estimate(day(1), 0, 0, 0)], [], margin=1, role="older", write=change, label="x"),
    ]
    for one in drawn:
        for element in parse(one).iter():
            assert not {"style", "fill", "stroke", "color"} & set(element.attrib)


# ---- small ones


def test_a_line_that_does_not_move_is_drawn_in_the_middle() -> None:
    root = parse(charts.sparkline([Line("plain", [(0, 24), (5, 24)])], "devices"))
    path = root.find("path")
    assert path is not None
    assert {y for _, y in corners(path.attrib["d"])} == {18.0}


def test_a_sparkline_of_nothing_is_nothing() -> None:
    assert charts.sparkline([], "x") == ""
    assert charts.sparkline([Line("older", [])], "x") == ""


def test_parts_of_a_bar_fill_it_and_are_named() -> None:
    root = parse(charts.bar([Part("good", 3, "verified"), Part("bad", 0, "failed"), Part("wait", 1, "waiting")]))
    fills = [one for one in root.iter("rect") if one.attrib["class"].startswith("fill")]
    assert sum(float(one.attrib["width"]) for one in fills) == 100
    assert root.attrib["aria-label"] == "3 verified, 1 waiting"


def test_devices_of_a_stage_are_counted_once() -> None:
    states = drawings.device_states({"total": 9, "online": 7, "verified": 4, "failed": 1, "timed_out": 1})
    assert states == {"verified": 4, "failed": 1, "timed out": 1, "waiting": 1, "offline": 2}
    assert sum(states.values()) == 9


def test_a_mean_over_seven_days_weighs_by_outcomes_and_forgets() -> None:
    days = [{"day": day(i), "n": 10, "value": 1.0} for i in range(3)]
    days += [{"day": day(20), "n": 30, "value": 2.0}, {"day": day(21), "n": 10, "value": 6.0}]
    assert [value for _, value in drawings._smooth(days)] == [1.0, 1.0, 1.0, 2.0, 3.0]


# ---- shares


def test_shares_lie_on_each_other_and_reach_the_top() -> None:
    days = [Answered(day(i), {"v1": 50 - i, "v1.1": 50 + i}) for i in range(5)]
    root = parse(charts_days.share_chart(days, ROLES, first=day(0), last=day(4), label="x"))
    paths = {one.attrib["class"]: corners(one.attrib["d"]) for one in root.iter("path")}
    assert set(paths) == {"area incumbent", "area older"}
    tops = [y for _, y in paths["area older"][:5]]
    assert tops == pytest.approx([0.0] * 5, abs=1e-3)
    assert paths["area incumbent"][:5] == paths["area older"][5:][::-1]


def test_a_version_is_named_inside_its_own_area() -> None:
    days = [Answered(day(i), {"v1": 100}) for i in range(10)]
    days += [Answered(day(i), {"v1": 50, "v1.1": 50}) for i in range(10, 20)]
    days += [Answered(day(i), {"v1.1": 100}) for i in range(20, 40)]
    named = texts(parse(charts_days.share_chart(days, ROLES, first=day(0), last=day(39), label="x")))
    assert 0 < float(named["v1"].attrib["x"].rstrip("%")) < 25
    assert 50 < float(named["v1.1"].attrib["x"].rstrip("%")) < 100


def test_a_version_that_answered_for_a_short_time_is_left_to_the_legend() -> None:
    days = [Answered(day(i), {"v1": 100}) for i in range(39)] + [Answered(day(39), {"v1.1": 100})]
    named = texts(parse(charts_days.share_chart(days, ROLES, first=day(0), last=day(39), label="x")))
    assert "v1" in named
    assert "v1.1" not in named


def test_a_single_day_and_days_without_answers_can_be_drawn() -> None:
    one = charts_days.share_chart([Answered(day(0), {"v1": 5})], ROLES, first=day(0), last=day(0), label="x")
    assert "v1" in texts(parse(one))
    none = charts_days.share_chart([Answered(day(0), {"v1": 0})], ROLES, first=day(0), last=day(0), label="x")
    assert not list(parse(none).iter("path"))


# ---- the band's chart


def test_the_limit_is_drawn_at_minus_the_margin_and_named() -> None:
    root = draw_band([Estimate(day(i), 0.05, -0.01, 0.09) for i in range(1, 9)])
    limit = next(one for one in root.iter("line") if one.attrib["class"] == "limit")
    named = texts(root)["limit \u22120.020"]
    assert float(named.attrib["y"]) == pytest.approx(float(limit.attrib["y1"]) + 4)
    zero = next(one for one in root.iter("line") if one.attrib["class"] == "zero")
    assert float(zero.attrib["y1"]) < float(limit.attrib["y1"])


@pytest.mark.parametrize("gain", [-0.022, -0.02, -0.018, 0.0, 0.3, -0.4])
def test_the_newest_estimate_and_the_limit_never_lie_on_each_other(gain: float) -> None:
    named = texts(draw_band([Estimate(day(1), gain, gain - 0.1, gain + 0.1)]))
    end = next(one for one in named.values() if one.attrib["class"] == "end")
    limit = next(one for one in named.values() if one.attrib["class"] == "limit-word")
    assert abs(float(end.attrib["y"]) - float(limit.attrib["y"])) >= 17.9


def test_a_band_that_knows_nothing_yet_stays_inside_the_plot() -> None:
    root = draw_band([Estimate(day(1), 0.01, -2.3, 2.3), Estimate(day(2), 0.02, -0.05, 0.09)])
    for path in root.iter("path"):
        assert all(25 <= y <= 257 for _, y in corners(path.attrib["d"]))


def test_names_of_stages_do_not_lie_on_each_other() -> None:
    marks = [Mark(day(i), f"Region-{i}") for i in range(30)]
    root = draw_band([Estimate(day(i), 0.0, -0.1, 0.1) for i in range(1, 31)], marks)
    places = sorted(
        float(one.attrib["x"].rstrip("%")) * 9 for name, one in texts(root).items() if name.startswith("Region")
    )
    assert len(places) > 3
    assert all(below - above > len("Region-10") * 7 for above, below in itertools.pairwise(places))


def test_a_drawing_says_in_words_what_it_shows() -> None:
    root = draw_band([Estimate(day(1), 0.0, 0.0, 0.0)])
    assert (root.attrib["role"], root.attrib["aria-label"]) == ("img", "a < b")
