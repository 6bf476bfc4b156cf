"""Business numbers from the request to the verdict: posted over the device's API, sent, taken in, and judged."""

from __future__ import annotations

import collections
import json
import pathlib
import typing

import pytest

from cloud.config import NumberSettings, RolloutSettings
from cloud.rollout.guardrails import LARGE, POSTED, decide_all, guardrails_of
from cloud.store.database import Database
from cloud.store.evidence import Evidence
from cloud.store.fleet import Fleet
from cloud.store.ingest import ingest
from cloud.store.measures import Measures
from edge_agent.predict.numbers import MemoryMeter
from edge_agent.records import Spec
from edge_agent.telemetry.fold import fold
from edge_agent.telemetry.forward import seal_pending
from edge_agent.telemetry.outbox import Outbox
from edge_agent.telemetry.spool import Spool
from shared import codec
from shared.bundle import Number
from shared.clock import DAY_S, day_of
from shared.telemetry import Batch, DeviceStatus
from tests import fakes

Row = dict[str, typing.Any]
DEVICES, DAYS, A_DAY = 10, 5, 60
SETTINGS = {"revenue": NumberSettings(margin=0.4, scale=10.0)}
PLAN = RolloutSettings(min_devices=DEVICES, memory_margin=0.5)


def post(served: fakes.Served, path: str, body: object) -> Row:
    reply = served.api.handle("POST", path, json.dumps(body).encode())
    assert reply.status == 200, reply.body
    for one in reply.after:
        served.engine.finish(one)
    return typing.cast("Row", json.loads(reply.body))


def work(folder: pathlib.Path, name: str, revenue: typing.Mapping[str, float]) -> tuple[list[Batch], dict[str, float]]:
    """Some days of one device whose customers spend differently; what it sends, and what they spent, by arm."""
    clock = fakes.Clock()
    numbers = (Number(name="revenue", scale=10.0),)
    v1, v2 = (fakes.make_bundle(v, slope=slope, numbers=numbers) for v, slope in (("v1", 1.0), ("v2", 2.0)))
    served = fakes.serve(folder / "bundles", v1, v2, fakes.trial(keep_pairs=False), wall=clock)
    spent: dict[str, float] = collections.defaultdict(float)
    meter = MemoryMeter(served.engine)
    layout = fakes.join(folder / "store")
    spool, outbox = Spool(layout.spool_db, 8 << 20), Outbox(layout.spool_db)
    spool.add_specs(
        [Spec(model="late", version=v, task="binary", metric="log_loss", metric_scale=1.0, label_window_s=DAY_S)
         for v in ("v1", "v2")]
    )  # fmt: skip
    batches = []
    for day in range(DAYS):
        for i in range(A_DAY):
            made = post(served, "/v1/predict", {"features": fakes.ROWS[i % 3], "unit": f"{name} {day} {i}"})[
                "parameters"
            ]
            if i % 3:  # one in three buys nothing, and nothing is posted
                value = revenue[made["arm"]] * (1 + 0.1 * (i % 5))
                item = {"prediction_id": made["prediction_id"], "numbers": {"revenue": value}}
                assert post(served, "/v1/outcomes", {"outcomes": [item, item]})["accepted"] == 2
                spent[made["arm"]] += value
        served.records.extend(meter.news(clock()))
        spool.store(lambda: fold(served.records, spool), spool.position, clock())
        served.records.clear()
        clock.now_s += DAY_S
        seal_pending(outbox, name, DeviceStatus, now_s=clock)
    for _, body in outbox.all_sealed():
        batches.append(codec.from_msgpack(codec.decompress(body, limit_bytes=1 << 20), Batch, limit_bytes=1 << 20))
    spool.close()
    outbox.close()
    return batches, dict(spent)


@pytest.mark.parametrize(("candidate", "word"), [(3.0, "rollback"), (8.0, "promote")])
def test_what_customers_spend_reaches_the_verdict_once_and_to_the_cent(
    tmp_path: pathlib.Path, candidate: float, word: str
) -> None:
    db = Database(tmp_path / "covey.db")
    fleet, spent = Fleet(db), collections.Counter[str]()
    fleet.add_token("t", "secret", "north", uses=DEVICES, lifetime_s=60)
    for i in range(DEVICES):
        fleet.join(f"till-{i}", f"{i:02}" * 32, "t", "secret")
        batches, own = work(tmp_path / str(i), f"till-{i}", {"incumbent": 6.0, "candidate": candidate})
        spent.update(own)
        for batch in [*batches, *batches]:
            ingest(db, batch, 1e9)
    before_day = day_of(fakes.NOW_S) + DAYS
    posted = Measures(db).numbers("late", [7], before_day=before_day)
    served = Evidence(db).served("late", [7], before_day=before_day)
    for arm, name in enumerate(("incumbent", "candidate")):
        total = sum(row["sum"] for row in posted if row["arm"] == arm) / (1 << 20) * 10.0
        assert total == pytest.approx(spent[name], abs=0.005)
    memory = Measures(db).memory("late", [7])
    assert sum(row["n"] for row in memory) == 2 * DEVICES * DAYS
    asked = guardrails_of([], [], PLAN, posted=posted, served=served, memory=memory, numbers=SETTINGS)
    assert sum(
        arm.n for stratum in asked[POSTED.format("revenue")].strata for arm in (stratum.control, stratum.candidate)
    ) == (DEVICES * DAYS * A_DAY)
    words = {name: one.word for name, one in decide_all(asked).items()}
    assert words[POSTED.format("revenue")] == word
    assert words[LARGE] != "rollback"
    db.close()
