"""Ranked lists, as bench_predict.py times them: found in the file, asked over HTTP, and the run that they spare."""

from __future__ import annotations

import json
import pathlib
import typing

import msgspec
import numpy as np
import predict_cases as cases
import predict_world as world

from cloud.export import ranked
from cloud.export.catalogue import Catalogue
from shared import bundle
from shared.features.columns import encode_columns, expand
from shared.lists import Items

N_ITEMS, LENGTH, N_CONTEXTS = 1000, 20, 256
OWN = ("hour", "distance_km", "carrier")
RUN = f"run over {N_ITEMS:,} items"
FOUND, ASKED, SCORED = "list: found", "list: HTTP, uvloop", "list: HTTP, uvloop, none made"


class Shown(typing.NamedTuple):
    """A bundle with lists, contexts that have one and contexts that have none, and the best score in each."""

    sealed: world.Sealed
    known: list[world.Row]
    unknown: list[world.Row]
    known_best: np.ndarray
    unknown_best: np.ndarray


def _context(row: world.Row) -> world.Row:
    return {name: value for name, value in row.items() if name not in OWN}


def _codes(rows: list[world.Row]) -> np.ndarray:
    return encode_columns(world.FEATURES, {name: [row[name] for row in rows] for name in world.FEATURES.columns})


def _inputs(items: list[world.Row], context: world.Row) -> np.ndarray:
    return expand(world.FEATURES, _codes([item | _context(context) for item in items]))


def make_lists(trained: world.Trained) -> Shown:
    """Rank a catalogue for some contexts."""
    items, seen = world.rows(N_ITEMS, 7), trained.rows
    run = world.session(trained.shipped).run

    def answer(inputs: np.ndarray) -> np.ndarray:
        return typing.cast("np.ndarray", run(["probabilities"], {"inputs": inputs})[0])

    known, unknown = seen[:N_CONTEXTS], seen[N_CONTEXTS : N_CONTEXTS + 32]
    rows = known + [item | _context(known[0]) for item in items]
    values = tuple(tuple(row[name] for name in OWN) for row in items)
    catalogue = Items(ids=tuple(range(N_ITEMS)), columns=OWN, rows=values)
    made = ranked.build(
        world.FEATURES,
        Catalogue(catalogue, np.arange(len(known), len(rows))),
        _codes(rows),
        answer,
        item="flight",
        length=LENGTH,
        budget_bytes=1 << 24,
        model_sha256=bundle.digest_of(trained.shipped),
        say=lambda _line: None,
    )
    plain = world.sealed(trained, "v1", None)
    files = plain.files | {bundle.LISTS_FILE: made.table, bundle.ITEMS_FILE: made.items}
    listed = tuple(
        bundle.File(name=name, sha256=bundle.digest_of(data), length=len(data)) for name, data in files.items()
    )
    manifest = msgspec.structs.replace(plain.manifest, files=listed, lists=made.says)
    best = [np.array([[0.0, answer(_inputs(items, row))[:, 1].max()] for row in some]) for some in (known, unknown)]
    return Shown(world.Sealed(manifest, files), known, unknown, *best)


def _read(reply: typing.Any) -> tuple[float, str]:  # noqa: ANN401 - JSON
    if len(reply["ranked"]) != LENGTH:
        raise AssertionError(reply)
    return reply["ranked"][0]["score"], reply["ranked"][0]["prediction_id"]


def client(process: world.Process, rows: list[world.Row], best: np.ndarray) -> cases.Client:
    """Ask an agent for lists."""
    bodies = [json.dumps({"context": _context(row)}).encode() for row in rows]
    return cases.Client(process, "/v1/rank", bodies, best, _read)


def in_process(folder: pathlib.Path, trained: world.Trained, shown: Shown) -> dict[str, cases.Case]:
    """Return the run over the whole catalogue that a list spares, and the look-up of a list."""
    run = world.session(trained.shipped).run
    items = world.rows(N_ITEMS, 7)
    feeds = [{"inputs": _inputs(items, row)} for row in shown.known[:8]]
    lists = cases.opened(folder, shown.sealed).lists
    if lists is None:
        raise AssertionError
    code, find = lists.code, lists.find

    def found(context: typing.Any) -> object:  # noqa: ANN401 - a row
        return find(code(context))

    contexts = [_context(row) for row in shown.known]
    for context, best in zip(contexts, shown.known_best, strict=True):
        first = find(code(context))
        if not first or abs(first[0][1] - best[1]) > cases.TOLERANCE:
            raise AssertionError(context)
    return {RUN: cases.timed(lambda feed: run(None, feed), feeds), FOUND: cases.timed(found, contexts)}
