"""The rule over arrays is the rule: each look of each experiment, to nine digits."""

from __future__ import annotations

import dataclasses
import math
import typing

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud.analysis import array_evidence, counts, mixture, tails
from cloud.analysis.array_decide import decide_all
from cloud.analysis.batch import (
    ArmSums,
    Array,
    AssignedSums,
    Batch,
    CrossDaySums,
    CrossSums,
    DaySums,
    PairSums,
    StratumSums,
    pick,
)
from cloud.analysis.decide import decide
from cloud.analysis.records import Direction, Kind, Metric, Minimum, Mode
from cloud.analysis.simulate import question, regions
from cloud.analysis.wire import parse_line

SIZE, LOOKS = 3, 4
Table = tuple[Array, Array, Array]


@dataclasses.dataclass
class World:
    """Draws tables of outcomes shaped (experiment, device, day), and adds them up."""

    rng: np.random.Generator
    kind: Kind
    devices: int
    days: int
    per_cell: int
    dated: bool

    def table(self, rate: float, empty: float) -> Table:
        """Outcomes, their sum and sum of squares; some devices have none of a stratum."""
        n = self.rng.integers(0, self.per_cell + 1, (SIZE, self.devices, self.days)).astype(float)
        n *= self.rng.random((SIZE, self.devices, 1)) >= empty
        spread = np.clip(rate + 0.1 * self.rng.standard_normal((SIZE, self.devices, 1)), 0.0, 1.0)
        if self.kind == "bernoulli":
            s = self.rng.binomial(n.astype(int), np.broadcast_to(spread, n.shape)).astype(float)
            return n, s, s
        s = 10.0 * n * (1.0 + spread) + self.rng.normal(0.0, 3.0, n.shape) * np.sqrt(n)
        return n, s, np.where(n > 0.0, s * s / np.maximum(n, 1.0) + n * self.rng.uniform(1.0, 9.0, n.shape), 0.0)

    def upto(self, table: Array) -> Array:
        """Cumulative over days, which come in four looks: (experiment, look, device, day)."""
        begun = np.arange(self.days)[None, :] < np.linspace(1, self.days, LOOKS).round()[:, None]
        return table[:, None] * begun[None, :, None, :]

    def arm(self, table: Table) -> ArmSums:
        """Sums of an arm."""
        n, s, sq = (self.upto(one) for one in table)
        sums = [one.sum((2, 3)) for one in (n, s, sq)]
        by_day = DaySums(*clusters(n.sum(2), s.sum(2))) if self.dated else None
        g, nn, ns, ss = clusters(n.sum(3), s.sum(3))
        return ArmSums(sums[0], sums[1], sums[2], g, nn, ns, ss, by_day)

    def stratum(self, rates: tuple[float, float], *, crossed: bool, region: str | None) -> StratumSums:
        """Both arms of a stratum, and what they share."""
        first, second = (self.table(rate, empty) for rate, empty in zip(rates, (0.1, 0.3), strict=True))
        cross = None
        if crossed:
            (n0, s0, _), (n1, s1, _) = ([self.upto(one) for one in table] for table in (first, second))
            daily = CrossDaySums(*products(n0.sum(2), s0.sum(2), n1.sum(2), s1.sum(2))) if self.dated else None
            g, nn, ns, sn, ss = products(n0.sum(3), s0.sum(3), n1.sum(3), s1.sum(3))
            cross = CrossSums(g, nn, ns, sn, ss, daily)
        return StratumSums(self.arm(first), self.arm(second), cross, region)

    def pairs(self) -> PairSums:
        """Pairs, of which some are won, some lost."""
        n, won, _ = self.table(0.1, 0.1)
        lost = self.rng.binomial((n - won).clip(0.0).astype(int), self.rng.uniform(0.0, 0.4)).astype(float)
        if self.kind == "continuous":
            won, lost = won / 10.0, np.abs(lost)
            arm = self.arm((n, won - lost, won * won + lost * lost))
        else:
            arm = self.arm((n, won - lost, won + lost))
        return PairSums(arm, *(self.upto(one).sum((2, 3)) for one in (won, lost)))


def clusters(n: Array, s: Array) -> list[Array]:
    return [(n > 0.0).sum(-1).astype(float), (n * n).sum(-1), (n * s).sum(-1), (s * s).sum(-1)]


def products(n0: Array, s0: Array, n1: Array, s1: Array) -> list[Array]:
    both = ((n0 > 0.0) & (n1 > 0.0)).sum(-1).astype(float)
    return [both, *((x * y).sum(-1) for x, y in ((n0, n1), (n0, s1), (s0, n1), (s0, s1)))]


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    kind: Kind = draw(st.sampled_from(["bernoulli", "bernoulli", "continuous"]))
    direction: Direction = draw(st.sampled_from(["higher", "lower"]))
    mode: Mode = draw(st.sampled_from(["ab", "canary", "shadow", "interleave"]))
    world = World(
        np.random.default_rng(draw(st.integers(0, 2**32))),
        kind,
        devices=draw(st.sampled_from([1, 2, 5, 30, 150])),
        days=draw(st.integers(1, 9)),
        per_cell=draw(st.sampled_from([1, 3, 40])),
        dated=draw(st.booleans()),
    )
    rate, drop = (
        draw(st.sampled_from([0.0, 0.004, 0.02, 0.5, 0.9, 1.0])),
        draw(st.sampled_from([-0.05, 0.0, 0.05, 0.3])),
    )
    rates = rate, min(1.0, max(0.0, rate + (drop if direction == "lower" else -drop)))
    names = draw(st.sampled_from([(None,), (None, None), ("a", "b"), ("a", "b", "a"), (None, "b")]))
    crossed = draw(st.booleans())
    strata = tuple(world.stratum(rates, crossed=crossed, region=name) for name in names)
    batch = Batch(
        asked=question(Metric(kind, direction), draw(st.sampled_from([0.005, 0.02, 0.3])), mode), strata=strata
    )
    return vary(draw, world, batch)


def vary(draw: st.DrawFn, world: World, batch: Batch) -> Batch:
    """Add what a record may have beside strata."""
    candidates = draw(st.sampled_from([1.0, 1.0, 3.0]))
    minimum = draw(
        st.sampled_from([Minimum(), Minimum(outcomes=20, devices=2), Minimum(outcomes=0, devices=0, days=3)])
    )
    asked = msgspec.structs.replace(batch.asked, n_candidates=candidates, minimum=minimum)
    changed: dict[str, typing.Any] = {"asked": asked}
    if draw(st.booleans()):
        late = draw(st.sampled_from([1, 3]))
        before = [max(0, look - late) for look in range(LOOKS)]
        changed["matured"] = tuple(pick(stratum, (slice(None), before)) for stratum in batch.strata)
    if draw(st.booleans()):
        changed["pairs"] = world.pairs()
        changed |= {"strata": ()} if draw(st.booleans()) and "matured" not in changed else {}
    if draw(st.booleans()):
        n0, n1 = (np.sum([getattr(s, name).n for s in batch.strata], 0) for name in ("control", "candidate"))
        lost = draw(st.sampled_from([1.0, 1.1, 1.5]))
        share = draw(st.sampled_from([None, 0.0, 0.5, 0.1]))
        changed["assigned"] = AssignedSums(np.floor(n0 * 1.02), np.floor(n1 * lost), share)
    if batch.asked.mode == "ab":
        changed.pop("pairs", None)
        changed["strata"] = batch.strata
    return msgspec.structs.replace(batch, **changed)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(batches())
def test_arrays_decide_as_each_record_alone_would_be_decided(batch: Batch) -> None:
    found = decide_all(batch)

    for at in np.ndindex(*batch.shape):
        record = batch.record(*at)
        alone = decide(record)
        word = "rollback" if found.rollback[at] else "promote" if found.promote[at] else "continue"
        assert word == alone.word
        suffering = {name for name, bad in found.regions.items() if bad[at]}
        assert (set(alone.regions) if word == "rollback" else suffering) == {
            name for name, own in alone.regions.items() if own == "rollback"
        }
        for name, value in (
            ("log_e_worse", found.log_e_worse),
            ("log_e_not_worse_by_margin", found.log_e_fine),
            ("log_e_missing", found.log_e_missing),
            ("log_e_split", found.log_e_split),
            ("outcomes", found.outcomes),
        ):
            assert value[at] == pytest.approx(alone.numbers[name], rel=1e-9, abs=1e-9), name


def test_arrays_wait_for_the_same_regions_as_each_record_alone() -> None:
    batch = regions(
        np.random.default_rng(8),
        20,
        n={"a": 50, "b": 30, "c": 5},
        p={"a": (0.9, 0.92), "b": (0.9, 0.92), "c": (0.9, 0.9)},
        asked=question(Metric("bernoulli", "higher"), 0.02),
    )
    found, waited = decide_all(batch), 0

    for at in np.ndindex(20, 40):
        alone = decide(batch.record(*at))
        assert ("promote" if found.promote[at] else "rollback" if found.rollback[at] else "continue") == alone.word
        waited += any("so little is known" in reason for reason in alone.reasons)
    assert waited > 20


@settings(max_examples=60, deadline=None)
@given(batches())
def test_a_record_of_a_batch_is_one_that_the_command_reads(batch: Batch) -> None:
    record = batch.record(SIZE - 1, LOOKS - 1)

    assert parse_line(msgspec.json.encode(record)) == record


FINITE = st.floats(-60.0, 60.0)


@settings(deadline=None)
@given(st.lists(st.tuples(FINITE, st.floats(1e-3, 50.0)), min_size=1, max_size=8))
def test_mixtures_over_arrays_are_those_of_scalars(rows: list[tuple[float, float]]) -> None:
    z, scale = (np.array(column) for column in zip(*rows, strict=True))

    expected = [(mixture.log_e_above(*row), mixture.log_e_drop(*row)) for row in rows]
    got = zip(array_evidence.log_e_above(z, scale), array_evidence.log_e_drop(z, scale), strict=True)
    for pair, other in zip(got, expected, strict=True):
        assert pair == pytest.approx(other, rel=1e-9, abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0.2, 1e6)), min_size=1, max_size=8))
def test_scores_over_arrays_are_those_of_scalars(rows: list[tuple[float, float]]) -> None:
    t, df = (np.array(column) for column in zip(*rows, strict=True))

    expected = [tails.z_from_t(*row) for row in rows]
    assert array_evidence.z_from_t(t, df).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.0, 500.0), st.floats(0.0, 500.0), st.floats(1e-3, 1e3)), min_size=1, max_size=4),
    st.floats(1e-4, 1.5),
)
def test_counts_over_arrays_are_those_of_scalars(rows: list[tuple[float, float, float]], limit: float) -> None:
    arrays = [array_evidence.Counts(*(np.array([x]) for x in row)) for row in rows]
    scalars = [counts.Count(*row) for row in rows]

    for name in ("log_e_more", "log_e_fewer"):
        got = float(getattr(array_evidence, name)(arrays)[0])
        assert got == pytest.approx(getattr(counts, name)(scalars), rel=1e-9, abs=1e-9)
    n, events = rows[0][0] + rows[0][1], rows[0][0]
    got = float(array_evidence.log_e_below(np.array([n]), np.array([events]), limit)[0])
    assert got == pytest.approx(counts.log_e_below(n, events, limit), rel=1e-9, abs=1e-9)
    assert math.isfinite(got) or math.isinf(counts.log_e_below(n, events, limit))
