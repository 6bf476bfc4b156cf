"""Numbers that come with outcomes, and memory: from the request to the batch, each once, and nothing else."""

from __future__ import annotations

import json
import math
import pathlib
import random
import subprocess
import sys
import typing

import pytest

from edge_agent import Predictor
from edge_agent.config import Layout
from edge_agent.predict.numbers import MemoryMeter, checked
from edge_agent.records import CANDIDATE, AnyRecord, MemorySeen, NumbersSeen, OutcomeSeen, Spec
from edge_agent.telemetry.fold import fold
from edge_agent.telemetry.measures import Measures
from edge_agent.telemetry.outbox import Outbox
from edge_agent.telemetry.spool import Spool
from shared.bundle import Number
from shared.clock import DAY_S
from shared.errors import DataError, WireError
from shared.summary import MEMORY, MEMORY_SCALE, SCALE, quantise
from shared.telemetry import MeasuresRow
from tests import fakes

Plain = dict[str, typing.Any]
ROW = {"x": 1, "colour": "red", "size": 0}
NUMBERS = (Number(name="minutes", scale=0.5), Number(name="revenue", scale=10.0))
KEY = ("late", "v1", 7, CANDIDATE, True, 100, "revenue", 10.0)


class Memory:
    """What folding looks up, in dictionaries."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()

    def see_outcome(self, nonce: bytes, _event_s: int) -> bool:
        fresh = nonce not in self.seen
        self.seen.add(nonce)
        return fresh

    def spec(self, model: str, version: str) -> Spec | None:
        known = Spec(
            model=model, version=version, task="binary", metric="accuracy", metric_scale=1.0, label_window_s=60
        )
        return known if version == "v1" else None

    def take_waiting(self, nonce: bytes, _event_s: int) -> None:
        del nonce

    def take_gain(self, nonce: bytes, gain: float, seen_s: float) -> None:
        del nonce, gain, seen_s


def seen(nonce: int = 1, *, after_s: int = 5, version: str = "v1", **numbers: float) -> NumbersSeen:
    said = tuple((name, value, 10.0) for name, value in (numbers or {"revenue": 12.5}).items())
    at_s = 100 * DAY_S
    return NumbersSeen("late", version, 7, CANDIDATE, at_s, nonce.to_bytes(6, "big"), at_s + after_s, said)


def added(*records: AnyRecord) -> Measures:
    return fold(records, Memory()).measures


# ---- what is posted


@pytest.fixture
def served(tmp_path: pathlib.Path) -> fakes.Served:
    return fakes.serve(tmp_path, fakes.make_bundle(numbers=NUMBERS))


def post(served: fakes.Served, **item: object) -> Plain:
    status, made = _ask(served, "/v1/predict", {"features": ROW})
    assert status == 200
    status, reply = _ask(
        served, "/v1/outcomes", {"outcomes": [{"prediction_id": made["parameters"]["prediction_id"]} | item]}
    )
    return reply if status == 200 else {"status": status} | reply


def _ask(served: fakes.Served, path: str, body: object) -> tuple[int, Plain]:
    reply = served.api.handle("POST", path, json.dumps(body).encode())
    for one in reply.after:
        served.engine.finish(one)
    return reply.status, json.loads(reply.body)


def test_numbers_are_recorded_beside_the_label_or_alone(served: fakes.Served) -> None:
    assert post(served, label=1, numbers={"revenue": 12.5, "minutes": -3}) == {"accepted": 1, "rejected": []}
    assert [type(one) for one in served.records[1:]] == [OutcomeSeen, NumbersSeen]
    said = served.records[-1]
    assert isinstance(said, NumbersSeen)
    assert said.numbers == (("revenue", 12.5, 10.0), ("minutes", -3.0, 0.5))
    assert post(served, numbers={"revenue": 0}) == {"accepted": 1, "rejected": []}
    assert isinstance(served.records[-1], NumbersSeen)
    assert sum(isinstance(one, OutcomeSeen) for one in served.records) == 1


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ({"revenues": 1}, "numbers.revenues: no such number. Known are minutes, revenue."),
        ({"revenue": "12"}, "numbers.revenue: '12' is not a number"),
        ({"revenue": True}, "numbers.revenue: True is not a number"),
        ({"revenue": None}, "numbers.revenue: None is not a number"),
        ({"revenue": [1]}, "numbers.revenue: [1] is not a number"),
        ({"revenue": 10_001}, "numbers.revenue: 10001 is not within 10000, 1000 times its scale"),
        ({"revenue": -(10**400)}, "numbers.revenue: -1000"),
        ({"minutes": 1, "revenue": 1e300}, "numbers.revenue: 1e+300 is not within"),
        ({"": 1}, "numbers.: no such number"),
    ],
)
def test_what_is_no_number_of_this_model_is_refused_by_name_and_nothing_of_it_is_taken(
    served: fakes.Served, numbers: Plain, says: str
) -> None:
    reply = post(served, label=1, numbers=numbers)
    assert reply["accepted"] == 0
    assert says in reply["rejected"][0]["error"]
    assert len(served.records) == 1  # the answer alone


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(DataError, match=r"numbers\.revenue"):
        checked({"revenue": value}, [fakes.make_bundle(numbers=NUMBERS).manifest])


def test_neither_label_nor_numbers_is_refused(served: fakes.Served) -> None:
    assert "neither a label nor numbers" in post(served)["rejected"][0]["error"]
    assert "neither a label nor numbers" in post(served, numbers={})["rejected"][0]["error"]
    assert post(served, numbers=[])["field"] == "outcomes[0].numbers"


def test_a_number_is_known_to_both_arms_when_one_of_them_names_it(tmp_path: pathlib.Path) -> None:
    v1, v2 = fakes.make_bundle(), fakes.make_bundle("v2", slope=2.0, numbers=NUMBERS)
    served = fakes.serve(tmp_path, v1, v2, fakes.trial())
    for _ in range(20):
        assert post(served, numbers={"revenue": 1.0})["accepted"] == 1
    assert {one.arm for one in served.records if isinstance(one, NumbersSeen)} == {0, 1}


def test_a_manifest_names_each_number_once_and_none_that_devices_measure() -> None:
    from shared.bundle import parse_manifest

    for names in (("revenue", "revenue"), (MEMORY,), ("Revenue",)):
        made = fakes.make_bundle(numbers=tuple(Number(name=name) for name in names))
        with pytest.raises(WireError, match="numbers"):
            parse_manifest(made.data)
    assert parse_manifest(fakes.make_bundle(numbers=NUMBERS).data).numbers == NUMBERS


# ---- added up


def test_each_number_of_an_answer_counts_once_and_late_or_unknown_ones_not_at_all() -> None:
    found = added(
        seen(), seen(), seen(2, revenue=-2.5), seen(1, clicks=3.0), seen(3, after_s=61), seen(4, version="v9")
    )
    assert found.rows[KEY] == [2, quantise(1.0), quantise(1.25) ** 2 // SCALE + quantise(0.25) ** 2 // SCALE]
    assert found.rows[(*KEY[:6], "clicks", 10.0)][:2] == [1, quantise(0.3)]
    assert found.counts == {"duplicate_numbers": 1, "late_numbers": 1, "unknown_numbers": 1}


def test_a_label_and_numbers_of_one_answer_are_not_each_others_duplicates() -> None:
    label = OutcomeSeen("late", "v1", 7, CANDIDATE, 100 * DAY_S, (1).to_bytes(6, "big"), 0.5, 1.0, 100 * DAY_S + 5)
    found = fold([label, seen()], Memory())
    assert found.n_duplicates == 0
    assert found.measures.rows[KEY][0] == 1


def test_every_order_gives_the_same_sums() -> None:
    records = [seen(i, revenue=0.1 * i, minutes=-1.7 * i) for i in range(50)]
    wanted = added(*records).rows
    random.Random(1).shuffle(records)
    assert added(*records).rows == wanted


def test_memory_counts_once_a_day_for_each_version() -> None:
    samples = [
        MemorySeen("late", version, 7, arm, int(day * DAY_S) + i, 50 << 20)
        for i in range(3)
        for day in (100, 101)
        for version, arm in (("v1", 0), ("v2", 1))
    ]
    rows = added(*samples).rows
    assert {(key[1], key[5]): row[0] for key, row in rows.items()} == {
        (version, day): 1 for version in ("v1", "v2") for day in (100, 101)
    }
    assert rows["late", "v2", 7, 1, True, 100, MEMORY, MEMORY_SCALE][1] == quantise((50 << 20) / MEMORY_SCALE)


def test_the_memory_of_what_is_loaded_is_said_once_a_day(tmp_path: pathlib.Path) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle(), fakes.make_bundle("v2", slope=2.0), fakes.trial())
    meter = MemoryMeter(served.engine)
    first = meter.news(fakes.NOW_S)
    assert [(one.version, one.arm, one.epoch) for one in first] == [("v1", 0, 7), ("v2", 1, 7)]
    assert all(one.size_bytes > 0 for one in first)
    assert meter.news(fakes.NOW_S) == []
    assert len(meter.news(fakes.NOW_S + DAY_S)) == 2


_MEASURED = """
import pathlib, sys
from tests import fakes
from edge_agent.predict.numbers import MemoryMeter
served = fakes.serve(pathlib.Path(sys.argv[1]), fakes.make_bundle(), fakes.make_bundle("v2", slope=2.0), fakes.trial())
print(*[one.size_bytes for one in MemoryMeter(served.engine).news(fakes.NOW_S)])
"""


def test_the_model_that_is_loaded_first_is_not_charged_for_what_the_runtime_takes(tmp_path: pathlib.Path) -> None:
    root = pathlib.Path(__file__).parents[3]
    command = [sys.executable, "-c", _MEASURED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root, timeout=120)
    first, _second = map(int, done.stdout.split())
    assert first < 4 << 20  # of nine megabytes before, with a model of some kilobytes


# ---- kept and handed on


def test_what_waits_goes_out_once_in_rows_that_say_all_of_it(tmp_path: pathlib.Path) -> None:
    layout = fakes.join(tmp_path)
    spool, outbox = Spool(layout.spool_db, 1 << 20), Outbox(layout.spool_db)
    for nonce in (1, 2):
        spool.add_specs([Spec(model="late", version="v1", task="binary", metric="accuracy", metric_scale=1.0,
                              label_window_s=60)])  # fmt: skip
        spool.store(lambda n=nonce: fold([seen(n), seen(n)], spool), spool.position, None)
    assert spool.totals()["duplicate_numbers"] == 2
    assert outbox.counts()["measures"] == 1
    sealed: list[tuple[MeasuresRow, ...]] = []

    def body(*parts: typing.Any) -> bytes:
        sealed.append(parts[-1])
        return b"x"

    assert outbox.has_pending()
    outbox.seal(body)
    assert sealed == [(MeasuresRow(*KEY, 2, 2 * quantise(1.25), 2 * (quantise(1.25) ** 2 // SCALE)),)]
    assert not outbox.has_pending()
    spool.close()
    outbox.close()


def test_a_program_posts_numbers_too_and_its_memory_is_measured(tmp_path: pathlib.Path) -> None:
    layout: Layout = fakes.join(tmp_path / "store")
    fakes.install(layout, fakes.make_bundle(numbers=NUMBERS))
    with Predictor(layout.store, with_sync=False) as predictor:
        made = predictor.predict(ROW)
        predictor.outcome(made.prediction_id, numbers={"revenue": 20})
        with pytest.raises(DataError, match=r"numbers\.profit"):
            predictor.outcome(made.prediction_id, numbers={"profit": 20})
    outbox = Outbox(layout.spool_db)
    rows: list[MeasuresRow] = []

    def body(*parts: typing.Any) -> bytes:
        rows.extend(parts[-1])
        return b"x"

    outbox.seal(body)
    outbox.close()
    assert {row.name: row.n for row in rows} == {"revenue": 1, MEMORY: 1}
