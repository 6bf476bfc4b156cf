"""Several models within one budget of memory: who is used stays, who is asked for comes back, and nobody is refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import typing

import pytest

from edge_agent.generation import Generation, GenerationModel
from edge_agent.predict.active import ActiveModel
from edge_agent.predict.loaded import LoadedBundle
from edge_agent.predict.meters import Meters
from edge_agent.predict.shelf import STAY_S, Shelf
from tests import fakes
from tests.unit.edge_.test_http_overload import Line
from tests.unit.edge_.test_http_server import request

ROW = {"x": 1, "colour": "red", "size": 0}
KNOWN = dict(fakes.ROWS[0])
NAMES = ("a", "b", "c")
STORED = (0.875, 0.125)


class World(typing.NamedTuple):
    """Three models that take ten bytes each, and room for some of them."""

    served: fakes.Served
    meters: Meters
    shelf: Shelf

    def bundle(self, name: str) -> LoadedBundle:
        return self.served.engine.model(name).incumbent

    def loaded(self) -> str:
        return "".join(name for name in NAMES if self.bundle(name).is_loaded.is_set())

    def use(self, *names: str) -> None:
        """Answer with models, one after the other."""
        for name in names:
            engine = self.served.engine
            engine.finish(engine.predict(engine.model(name), ROW, unit=None, event_s=fakes.NOW_S))

    def settle(self, now_s: float) -> bool:
        return asyncio.run(self.shelf.settle(now_s))


def make(folder: pathlib.Path, limit_bytes: int) -> World:
    served = fakes.serve(folder / "0", fakes.make_bundle())
    models = {}
    for name in NAMES:
        made = fakes.make_bundle(model=name, table={0: STORED})
        opened = fakes.unpack(folder / name, made)
        assert opened.size_bytes >= len(made.files["model.onnx"])
        opened.size_bytes = 10
        entry = GenerationModel(model=name, incumbent="v1", incumbent_sha256=made.sha256)
        models[name] = ActiveModel(entry, {"v1": opened}, fakes.DEVICE)
    served.engine.activate(Generation(region=fakes.REGION, models=(), probation_s=1.0), models)
    return World(served, served.api.meters, Shelf(served.engine, served.api.meters, limit_bytes))


def test_within_the_budget_everything_stays(tmp_path: pathlib.Path) -> None:
    world = make(tmp_path, 30)
    assert not world.settle(0.0)
    assert (world.loaded(), world.shelf.used_bytes()) == ("abc", 30)


def test_what_was_used_longest_ago_makes_room(tmp_path: pathlib.Path) -> None:
    world = make(tmp_path, 25)
    world.use("b", "c", "a")
    world.settle(0.0)
    assert world.loaded() == "ac"
    assert world.shelf.used_bytes() == 20


def test_one_model_stays_however_large_it_is(tmp_path: pathlib.Path) -> None:
    world = make(tmp_path, 5)
    world.use("c", "b")
    world.settle(0.0)
    assert world.loaded() == "b"
    world.settle(1.0)
    assert world.loaded() == "b"


def test_what_is_asked_for_comes_back_and_stays_for_a_moment(tmp_path: pathlib.Path) -> None:
    world = make(tmp_path, 10)
    world.use("a")
    world.settle(0.0)
    assert world.loaded() == "a"
    world.bundle("b").is_wanted = True
    assert not world.settle(10.0)
    assert world.loaded() == "b"
    world.bundle("b").size_bytes = world.bundle("c").size_bytes = 10
    world.bundle("c").is_wanted = True
    assert world.settle(10.0 + STAY_S / 2)
    assert world.loaded() == "b"
    assert not world.settle(10.0 + STAY_S)
    assert world.loaded() == "c"


def test_a_model_that_was_put_away_is_ready_and_its_table_answers(tmp_path: pathlib.Path) -> None:
    world = make(tmp_path, 10)
    world.use("a")
    world.settle(0.0)
    api = world.served.api
    assert api.handle("GET", "/v2/health/ready", b"").status == 200
    said = json.loads(api.handle("POST", "/v1/predict", json.dumps({"model": "c", "features": KNOWN}).encode()).body)
    assert said["parameters"]["source"] == "precomputed"
    index = {one["name"]: one for one in json.loads(api.handle("POST", "/v2/repository/index", b"").body)}
    assert [index[name]["state"] for name in NAMES] == ["READY"] * 3
    assert [bool(index[name]["reason"]) for name in NAMES] == [False, True, True]


@contextlib.contextmanager
def kept(world: World) -> typing.Iterator[tuple[str, int]]:
    """Serve, and look after the models."""
    with fakes.running(world.served.api) as (loop, server):
        listener = fakes.on_loop(loop, loop.create_server(server.new_connection, "127.0.0.1"))
        task = asyncio.run_coroutine_threadsafe(world.shelf.run(server.patience.wanted), loop)
        try:
            yield listener.sockets[0].getsockname()
        finally:
            task.cancel()
            loop.call_soon_threadsafe(listener.close)


@pytest.mark.timeout(120)
def test_models_that_are_asked_in_turn_all_answer_and_the_budget_holds(tmp_path: pathlib.Path) -> None:
    world = make(tmp_path, 1)
    world.use("a")
    with kept(world) as address, contextlib.ExitStack() as stack:
        fakes.wait_for(lambda: world.loaded() == "a")
        lines = {name: stack.enter_context(Line(address)) for name in NAMES}
        for _ in range(2):
            for name, line in lines.items():
                line.send(request("/v1/predict", {"model": name, "features": ROW}))
            for name, line in lines.items():
                status, reply = line.reply()
                assert (status, reply.body["model"], reply.body["parameters"]["source"]) == (200, name, "onnx")
        fakes.wait_for(lambda: len(world.loaded()) == 1)


def test_a_shadow_arm_does_not_bring_a_model_back(tmp_path: pathlib.Path) -> None:
    served = fakes.serve(tmp_path, fakes.make_bundle(), fakes.make_bundle("v2", slope=2.0), fakes.trial("shadow"))
    active = served.engine.model(None)
    active.candidates[1].park()
    with fakes.listening(served.api) as address:
        assert fakes.post(f"http://{address[0]}:{address[1]}", "/v1/predict", {"features": ROW})[0] == 200
        fakes.wait_for(lambda: served.records)
    assert not active.candidates[1].is_wanted
    assert not active.candidates[1].is_loaded.is_set()
