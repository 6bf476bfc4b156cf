"""Ranked lists from a shop's data to an answer over HTTP: trained, sealed, tried by the device, asked, updated."""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
import random
import typing

import msgspec
import pytest

from cloud.config import Project
from cloud.pipeline import Trained
from cloud.publish.repository import SignedRepository
from cloud.publish.seal import SealedBundle, load_bundle, verify_bundle
from cloud.store.store import Store
from edge_agent.predict.loaded import LoadedBundle
from edge_agent.update.self_test import run_self_test
from shared import bundle, delta
from shared.bundle import parse_manifest
from shared.clock import DAY_S, format_time
from shared.errors import ConfigError, DataError, ModelError, TrustError, WireError
from shared.precomputed import PrecomputedTable
from tests import fakes, ranked
from tests.unit.cloud_ import builders

FEATURES = """\
name = "sales"
keep = ["product"]
[[feature]]
kind = "categorical"
name = "colour"
categories = ["red", "green", "blue"]
[[feature]]
kind = "time"
name = "hour"
source = "at"
part = "hour"
[[feature]]
kind = "numeric"
name = "price"
min = 0
max = 100
[[feature]]
kind = "categorical"
name = "kind"
categories = ["tea", "bread"]
"""
LISTS = '[models.sales.lists]\nitem = "product"\ncolumns = ["price", "kind"]\nlength = 5\n'
STUDENT = (
    '[[models.sales.variant]]\nname = "tiny"\nkind = "student"\nestimator = "sklearn.linear_model.LogisticRegression"\n'
)
N_PRODUCTS = 40


def sales(days: int, first_day: int = 0) -> list[builders.Row]:
    """Sales of products: a price of its own each, tea is liked by red customers, bread early in the day."""
    rng = random.Random(first_day)
    rows: list[builders.Row] = []
    for day in range(first_day, first_day + days):
        for i in range(60):
            product = int(rng.random() ** 2 * N_PRODUCTS)
            colour, kind = rng.choice(["red", "green", "blue"]), ("tea", "bread")[product % 2]
            at_s = builders.START_S + day * DAY_S + i * 600
            odds = 0.2 + 0.5 * ((colour == "red") == (kind == "tea")) - product / 200
            rows.append(
                {
                    "at": format_time(at_s), "colour": colour, "price": 1.5 + product, "kind": kind,
                    "product": f"p{product}", "sold": int(rng.random() < odds),
                }
            )  # fmt: skip
    return rows


@dataclasses.dataclass
class Shop:
    project: Project
    store: Store
    trained: Trained


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> typing.Iterator[Shop]:
    project = builders.make_project(
        tmp_path_factory.mktemp("lists") / "shop",
        features=FEATURES,
        model=builders.LOGISTIC,
        more=f"{builders.EASY_GATES}\n{LISTS}{STUDENT}",
    )
    with builders.opened(project) as store:
        builders.add(project, store, sales(20))
        yield Shop(project, store, builders.fit(project, store))


def fake(sealed: SealedBundle) -> fakes.Bundle:
    return fakes.Bundle(sealed.manifest, sealed.data, dict(sealed.files))


def catalogue(sealed: SealedBundle) -> list[dict[str, object]]:
    items = json.loads(sealed.files[bundle.ITEMS_FILE])
    return [dict(zip(items["columns"], row, strict=True)) for row in items["rows"]]


def test_what_is_answered_over_http_is_what_the_model_says_of_the_whole_catalogue(
    shop: Shop, tmp_path: pathlib.Path
) -> None:
    sealed = shop.trained.sealed
    served = fakes.serve(tmp_path, fake(sealed))
    items = catalogue(sealed)
    ids = json.loads(sealed.files[bundle.ITEMS_FILE])["ids"]
    sources: collections.Counter[str] = collections.Counter()
    with fakes.listening(served.api) as (host, port):
        url = f"http://{host}:{port}"
        for colour in ("red", "blue", "mauve"):
            for hour in (0, 9, 23):
                context = {"colour": colour, "at": f"2025-04-01T{hour:02}:30:00"}
                status, said = fakes.post(url, "/v1/rank", {"context": context})
                by_hand = {"candidates": items, "ids": ids, "context": context, "top_k": 5}
                _, wanted = fakes.post(url, "/v1/rank", by_hand)
                assert status == 200, said
                assert [one["id"] for one in said["ranked"]] == [one["id"] for one in wanted["ranked"]]
                assert [one["score"] for one in said["ranked"]] == pytest.approx(
                    [one["score"] for one in wanted["ranked"]], abs=1e-6
                )
                sources[said["ranked"][0]["source"]] += 1
                first = said["ranked"][0]["prediction_id"]
                outcome = {"outcomes": [{"prediction_id": first, "label": 1}]}
                assert fakes.post(url, "/v1/outcomes", outcome)[1]["accepted"] == 1
    assert sources == {"precomputed": 4, "onnx": 5}  # nobody was mauve, and nothing is sold in the middle of the night


def test_what_the_lists_are_worth_is_measured_and_on_the_card(shop: Shop) -> None:
    worth = shop.trained.detail["lists"]
    assert isinstance(worth, dict)
    table = PrecomputedTable(shop.trained.sealed.files[bundle.LISTS_FILE])
    assert (worth["n_contexts"], worth["n_items"], worth["length"]) == (table.n_keys - 1, N_PRODUCTS, 5)
    assert (worth["coverage"], worth["known"], worth["agreement"]) == (1.0, 1.0, 1.0)
    assert json.loads(shop.trained.sealed.files[bundle.CARD_FILE])["lists"] == worth
    assert any(
        line.startswith("lists.bin: 31 lists of 5 out of 40 items") for line in verify_bundle(shop.trained.sealed)
    )


def test_a_device_tries_the_lists_before_it_runs_them(shop: Shop, tmp_path: pathlib.Path) -> None:
    made = fake(shop.trained.sealed)
    fakes.unpack(tmp_path / "sound", made, load=False)
    (tmp_path / "sound" / "manifest.json").write_bytes(made.data)
    run_self_test(tmp_path / "sound", made.manifest, timeout_s=60)
    table = PrecomputedTable(made.files[bundle.LISTS_FILE])
    lists = {key: [(int(n[i]), n[5 + i]) for i in range(5)] for key, n in table.items()}
    key = next(iter(lists))
    lists[key] = [lists[key][0], *lists[key][:4]]
    digest = made.manifest.features_sha256
    odd = made.files | {bundle.LISTS_FILE: ranked.table(lists, 5, made.files[bundle.MODEL_FILE], digest)}
    damaged = fakes.seal(made.manifest, odd)
    fakes.unpack(tmp_path / "odd", damaged, load=False)
    (tmp_path / "odd" / "manifest.json").write_bytes(damaged.data)
    with pytest.raises(ModelError, match="an item is there twice"):
        run_self_test(tmp_path / "odd", damaged.manifest, timeout_s=60)
    with pytest.raises(WireError, match="an item is there twice"):
        verify_bundle(SealedBundle(damaged.manifest, damaged.data, odd, {}))


def test_a_variant_brings_the_same_lists_as_its_own(shop: Shop, tmp_path: pathlib.Path) -> None:
    repository = SignedRepository(shop.project.repository, shop.project.keys)
    tiny, standard = load_bundle(repository, "sales", "v1", "tiny"), shop.trained.sealed
    verify_bundle(tiny)
    assert tiny.manifest.lists == standard.manifest.lists
    tables = [PrecomputedTable(one.files[bundle.LISTS_FILE]) for one in (tiny, standard)]
    assert dict(tables[0].items()) == dict(tables[1].items())
    assert tables[0].model_sha256 == bundle.digest_of(tiny.files[bundle.MODEL_FILE]) != tables[1].model_sha256
    assert fakes.unpack(tmp_path / "tiny", fake(tiny)).lists is not None


def test_lists_of_another_model_other_features_or_another_catalogue_are_refused(
    shop: Shop, tmp_path: pathlib.Path
) -> None:
    made = fake(shop.trained.sealed)
    lists = {key: [(int(n[i]), n[5 + i]) for i in range(5)] for key, n in _table(made).items()}
    model, digest = made.files[bundle.MODEL_FILE], made.manifest.features_sha256
    says = made.manifest.lists
    assert says is not None
    fewer = msgspec.structs.replace(says, n_items=39)
    context = msgspec.structs.replace(says, context=("colour",))
    columns = msgspec.structs.replace(says, columns=("price", "colour"), context=("at", "kind"))
    cases: list[tuple[dict[str, bytes], bundle.Lists, str]] = [
        ({bundle.LISTS_FILE: ranked.table(lists, 5, b"another", digest)}, says, "the table belongs to another model"),
        ({bundle.LISTS_FILE: ranked.table(lists, 5, model, "ab" * 32)}, says, "the table belongs to other features"),
        ({bundle.LISTS_FILE: made.files[bundle.TABLE_FILE]}, says, "the table belongs to other features or outputs"),
        ({bundle.LISTS_FILE: b""}, says, "too few for a table"),
        ({bundle.ITEMS_FILE: b"{}"}, says, "schema"),
        ({}, fewer, "40 items, the manifest says 39"),
        ({}, context, "the context is not what the features leave for it"),
        ({}, columns, "the manifest says 40"),
    ]
    for i, (files, lists_said, match) in enumerate(cases):
        odd = fakes.seal(made.manifest, made.files | files, lists=lists_said)
        with pytest.raises((TrustError, WireError), match=match):
            fakes.unpack(tmp_path / str(i), odd, load=False)


def _table(made: fakes.Bundle) -> PrecomputedTable:
    return PrecomputedTable(made.files[bundle.LISTS_FILE])


def test_an_item_whose_values_its_features_refuse_is_found_before_anybody_asks(
    shop: Shop, tmp_path: pathlib.Path
) -> None:
    made = fake(shop.trained.sealed)
    items = json.loads(made.files[bundle.ITEMS_FILE])
    items["rows"][7][0] = 101.5
    odd = fakes.seal(made.manifest, made.files | {bundle.ITEMS_FILE: json.dumps(items).encode()})
    loaded: LoadedBundle = fakes.unpack(tmp_path / "odd", odd, load=False)
    assert loaded.lists is not None
    with pytest.raises(WireError, match=rf"the values of '{items['ids'][7]}' are refused: price: 101.5 is outside"):
        loaded.lists.check()


def test_an_older_agent_takes_the_bundle_and_leaves_the_lists_alone(shop: Shop, tmp_path: pathlib.Path) -> None:
    """What it does not know it does not read: as if the field were not there."""
    made = fake(shop.trained.sealed)
    data = made.data.replace(b'"lists":{', b'"unheard_of":{', 1)
    older = data.replace(b'"lists.bin"', b'"lists.later"').replace(b'"items.json"', b'"items.later"')
    manifest = parse_manifest(older)
    names = {"lists.bin": "lists.later", "items.json": "items.later"}
    files = {names.get(name, name): content for name, content in made.files.items()}
    served = fakes.serve(tmp_path, fakes.Bundle(manifest, older, files))
    said = json.loads(served.api.handle("POST", "/v1/rank", b"{}").body)
    assert (said["field"], said["status"]) == ("candidates", 400)
    row = {"colour": "red", "at": "2025-04-01T09:00:00", "price": 2, "kind": "tea"}
    assert served.api.handle("POST", "/v1/predict", json.dumps({"features": row}).encode()).status == 200


def test_the_next_version_is_fetched_as_what_changed(shop: Shop) -> None:
    """The same model with a few more items: most lists are as they were."""
    before = shop.trained.sealed
    table, says = PrecomputedTable(before.files[bundle.LISTS_FILE]), before.manifest.lists
    assert says is not None
    lists = {key: [(int(n[i]), n[5 + i]) for i in range(5)] for key, n in table.items()}
    key = next(iter(lists))
    lists[key] = [(N_PRODUCTS, 1.0), *lists[key][:4]]
    after = ranked.table(lists, 5, b"the next model", before.manifest.features_sha256)
    made = delta.encode("records", before.files[bundle.LISTS_FILE], after)
    assert made is not None
    assert len(made) < len(after) / 4
    assert delta.apply(made, before.files[bundle.LISTS_FILE], limit_bytes=len(after)) == after


@pytest.mark.parametrize(
    ("lists", "error", "field", "says"),
    [
        ('item = "products"', DataError, "lists.item", "the data has no column 'products'"),
        ('item = "product"\ncolumns = ["prize"]', DataError, "lists.columns", "no feature reads 'prize'"),
        ('item = "product"', DataError, "lists.columns", "no feature is an item's own"),
        (
            'item = "product"\ncolumns = ["price", "kind", "colour", "at"]',
            DataError,
            "lists.columns",
            "no feature is left for the context",
        ),
        (
            'item = "product"\ncolumns = ["price"]\nbudget_bytes = 100',
            ConfigError,
            "lists.budget_bytes",
            "too few for the catalogue's",
        ),
    ],
)
def test_settings_that_can_not_work_are_refused_by_their_name(
    shop: Shop, lists: str, error: type[Exception], field: str, says: str
) -> None:
    config = builders.config(model=builders.LOGISTIC, more=f"{builders.EASY_GATES}\n[models.sales.lists]\n{lists}\n")
    project = builders.write(shop.project, "covey.toml", config)
    with pytest.raises(error, match=says) as caught:
        builders.fit(project, shop.store)
    assert getattr(caught.value, "field") == field  # noqa: B009 - of any of both


def test_the_command_line_says_what_they_are_worth(shop: Shop) -> None:
    from click.testing import CliRunner

    from cloud.cli.main import cli

    builders.write(shop.project, "covey.toml", builders.config(model=builders.LOGISTIC, more=LISTS))
    for command in (["bundle", "show", "v1"], ["model", "show", "v1"]):
        done = CliRunner().invoke(cli, ["--project", str(shop.project.folder), *command], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert "lists: " in done.output
    assert '"n_items": 40' in done.output
