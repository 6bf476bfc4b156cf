"""Interleaving on real ratings: the better of two rankers is kept whichever of them is the candidate."""

from __future__ import annotations

import collections
import contextlib
import http.client
import itertools
import json
import pathlib
import random
import typing
import urllib.parse

import pytest

from cloud.analysis.decide import decide
from cloud.analysis.records import DecideInput, Decision, Metric
from cloud.rollout.sums import pairs_of
from edge_agent.telemetry.outbox import Outbox
from shared.clock import DAY_S
from shared.telemetry import PairsRow
from tests import fakes
from tests.e2e import films

DEVICES, LISTS, DAYS = 20, 1000, 10
START_S = int(fakes.NOW_S)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[fakes.Bundle, fakes.Bundle, list[films.Shown]]:
    """The good ranker, the one that has it the wrong way round, and what people are shown."""
    learn, shown = films.quarters(films.ratings())
    good, poor = films.rankers(tmp_path_factory.mktemp("films") / "project", learn)
    return good, poor, films.lists(shown, LISTS)


class Visitor:
    """Somebody who asks a device for lists over HTTP, clicks, and tells it."""

    def __init__(self, address: str, rng: random.Random) -> None:
        where = urllib.parse.urlsplit(address)
        self._line = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
        self._rng = rng
        self.clicked: collections.Counter[str] = collections.Counter()

    def post(self, path: str, body: object) -> dict[str, typing.Any]:
        self._line.request("POST", path, json.dumps(body))
        reply = self._line.getresponse()
        said: dict[str, typing.Any] = json.loads(reply.read())
        assert reply.status == 200, said
        return said

    def visit(self, shown: films.Shown, event_s: float) -> None:
        """Ask for a list, click in it, and tell; some clicks are told twice."""
        said = self.post("/v1/rank", {"candidates": shown.rows, "unit": shown.user, "event_time": event_s})
        ranked = said["ranked"]
        places = films.clicks([shown.likes[one["index"]] for one in ranked], self._rng)
        outcomes = [{"prediction_id": ranked[place]["prediction_id"], "label": 1} for place in places]
        if outcomes:
            assert self.post("/v1/outcomes", {"outcomes": outcomes + outcomes[:1]})["rejected"] == []
        if "visit" in said:
            self.clicked.update(ranked[place]["arm"] for place in places)

    def close(self) -> None:
        self._line.close()


def play(folder: pathlib.Path, incumbent: fakes.Bundle, candidate: fakes.Bundle, shown: list[films.Shown]) -> list[Row]:
    """Have devices answer everybody for ten days; return the pairs that they would deliver."""
    rng = random.Random(7)
    trial = fakes.trial("interleave", request_share_bp=10_000)
    rows: list[Row] = []
    for device in range(DEVICES):
        layout = fakes.join(folder / f"till-{device}")
        fakes.install(layout, incumbent, candidate, trial, replay=True)
        with fakes.running_agent(layout) as agent:
            fakes.wait_for(lambda: agent.engine.models and agent.engine.model(None).is_prompt)
            # Coins fall as they did the last time, however often a busy machine has to ask for an answer again.
            names = (n.to_bytes(6, "big") for n in itertools.count(device << 32))
            agent.engine.new_nonce = names.__next__  # type: ignore[method-assign]
            with contextlib.closing(Visitor(agent.address, rng)) as visitor:
                mine = [one for one in shown if int(one.user) % DEVICES == device]
                for i, one in enumerate(mine):
                    visitor.visit(one, START_S + i * DAYS * DAY_S / len(mine))
                # All labels are in: visits close when the agent adds up before it ends.
                visitor.post("/v1/clock", {"event_time": START_S + (DAYS + 2) * DAY_S})
        rows += [_row(f"till-{device}", row) for row in delivered(layout)]
    return rows


Row = dict[str, typing.Any]


def delivered(layout: fakes.Layout) -> list[PairsRow]:
    """What is in the batch that the device would send."""
    found: list[PairsRow] = []

    def body(_sequence: int, _sums: object, pairs: list[PairsRow], *_rest: object) -> bytes:
        found.extend(pairs)
        return b""

    with contextlib.closing(Outbox(layout.spool_db)) as outbox:
        outbox.seal(body)
    return found


def _row(device: str, row: PairsRow) -> Row:
    return {"device": device} | {name: getattr(row, name) for name in ("day", "n", "sum", "sumsq", "pos", "neg")}


def judge(rows: list[Row]) -> Decision:
    """Decide as the controller does about interleaved lists, with the plan's defaults."""
    return decide(
        DecideInput(
            schema="covey.decide/1",
            mode="interleave",
            alpha=0.05,
            alpha_promote=0.01,
            margin=0.05,
            n_candidates=1,
            metric=Metric("bernoulli", "higher"),
            strata=(),
            pairs=pairs_of(rows, bernoulli=True),
        )
    )


@pytest.mark.parametrize("better", ["candidate", "incumbent"])
def test_the_better_ranker_is_kept_by_what_people_click(
    tmp_path: pathlib.Path, world: tuple[fakes.Bundle, fakes.Bundle, list[films.Shown]], better: str
) -> None:
    good, poor, shown = world
    arms = (poor, good) if better == "candidate" else (good, poor)
    rows = play(tmp_path, *arms, shown)
    assert sum(row["n"] for row in rows) == LISTS  # each list counts once, with clicks or without
    assert len({row["device"] for row in rows}) == DEVICES
    found = judge(rows)
    assert found.word == ("promote" if better == "candidate" else "rollback"), found
