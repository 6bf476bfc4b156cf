"""Whatever is sent to the decision rule, it is either decided on or refused by an error that names the field."""

from __future__ import annotations

import copy
import json
import math
import typing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud.analysis.decide import decide
from cloud.analysis.wire import parse_line
from shared.errors import WireError, WireVersionError

ARM = {"n": 100, "sum": 90, "sumsq": 90, "g": 10, "g_nn": 1000, "g_ns": 900, "g_ss": 830}
DAYS = {"g": 4, "nn": 2500, "ns": 2250, "ss": 2040}
CROSS = {
    "g": 10,
    "nn": 1000,
    "ns": 900,
    "sn": 900,
    "ss": 815,
    "days": {"g": 4, "nn": 2500, "ns": 2250, "sn": 2250, "ss": 2030},
}
_SHARED: dict[str, typing.Any] = {
    "schema": "covey.decide/1",
    "mode": "canary",
    "look": 3,
    "max_looks": 200,
    "alpha": 0.05,
    "alpha_promote": 0.01,
    "margin": 0.02,
    "n_candidates": 1,
    "metric": {"kind": "bernoulli", "direction": "higher"},
    "strata": [
        {"control": {**ARM, "days": DAYS}, "candidate": {**ARM, "assigned": 110}, "cross": CROSS, "region": "asia"}
    ],
    "matured": [{"control": ARM, "candidate": ARM}],
    "pairs": {
        **ARM,
        "sum": -5,
        "sumsq": 25,
        "g_ns": -50,
        "g_ss": 30,
        "pos": 10,
        "neg": 15,
        "days": {**DAYS, "ns": -125, "ss": 40},
    },
    "minimum": {"outcomes": 500, "devices": 20, "days": 0},
    "assigned": {"control": 110, "candidate": 110, "share": 0.5},
    "last": {"control": {"n": 1, "sum": 1}, "candidate": {"n": 1, "sum": 1}},
}
RECORD: dict[str, typing.Any] = json.loads(json.dumps(_SHARED))  # so that no two branches are one object
Path = tuple[str | int, ...]


def leaves(node: typing.Any, at: Path = ()) -> typing.Iterator[Path]:
    """Paths of everything inside a record, branches too."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*at, key)
        yield from leaves(value, (*at, key))


def changed(path: Path, value: typing.Any = None, *, delete: bool = False) -> str:
    record = copy.deepcopy(RECORD)
    node: typing.Any = record
    for key in path[:-1]:
        node = node[key]
    if delete:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return json.dumps(record)


def named(path: Path) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


ALL = list(leaves(RECORD))
NUMBERS = [
    path
    for path in ALL
    if path[-1] in {*ARM, *CROSS, "margin", "alpha", "pos", "neg", "assigned", "outcomes", "share"}
    and path[-1] != "days"
    and path != ("assigned",)
]
REQUIRED = [
    ("schema",),
    ("mode",),
    ("alpha",),
    ("alpha_promote",),
    ("margin",),
    ("n_candidates",),
    ("metric",),
    ("strata",),
]
REQUIRED += [("metric", "kind"), ("metric", "direction"), ("strata", 0, "control"), ("strata", 0, "candidate")]
REQUIRED += [("strata", 0, "control", name) for name in ARM] + [
    ("strata", 0, "cross", name) for name in CROSS if name != "days"
]
REQUIRED += [("pairs", name) for name in (*ARM, "pos", "neg")] + [("pairs", "days", name) for name in DAYS]
REQUIRED += [("matured", 0, "candidate", "g_ss"), ("assigned", "control"), ("assigned", "candidate")]
REQUIRED += [("last", "control"), ("last", "candidate", "n"), ("last", "candidate", "sum")]


def test_a_whole_record_is_read() -> None:
    record = parse_line(json.dumps(RECORD))

    assert record.strata[0].candidate.assigned == 110.0
    assert record.strata[0].cross.days.sn == 2250.0
    assert record.pairs.sum == -5.0
    assert parse_line(json.dumps(RECORD).encode()) == record


def test_what_is_optional_may_be_absent_or_null() -> None:
    optional = ["look", "max_looks", "matured", "pairs", "minimum", "assigned", "last"]
    without, with_null = copy.deepcopy(RECORD), copy.deepcopy(RECORD)
    for name in optional:
        del without[name]
        with_null[name] = None
    plain, null = parse_line(json.dumps(without)), parse_line(json.dumps(with_null))

    assert plain.matured is None
    assert parse_line(changed(("matured",), [])).matured == ()
    assert plain.least().outcomes == null.least().outcomes == 500.0
    assert decide(plain) == decide(null)


def test_unknown_fields_are_ignored() -> None:
    for path in [("new",), ("metric", "new"), ("strata", 0, "new"), ("strata", 0, "control", "new")]:
        assert parse_line(changed(path, {"deep": [1, 2]})) == parse_line(json.dumps(RECORD))


def test_numbers_may_be_floats() -> None:
    assert parse_line(changed(("strata", 0, "control", "n"), 100.0)) == parse_line(json.dumps(RECORD))
    assert parse_line(changed(("look",), 3.0)).look == 3.0


@pytest.mark.parametrize("path", REQUIRED, ids=named)
def test_a_missing_field_is_named(path: Path) -> None:
    with pytest.raises(WireError) as caught:
        parse_line(changed(path, delete=True))

    assert caught.value.field == named(path)


def is_of_the_same_type(path: Path, value: object) -> bool:
    original: typing.Any = RECORD
    for key in path:
        original = original[key]
    return isinstance(original, str | list | dict) and isinstance(value, type(original))


@pytest.mark.parametrize(
    ("path", "value"),
    [(path, v) for path in ALL for v in ("3", True, {"n": 1}, [[]]) if not is_of_the_same_type(path, v)],
    ids=lambda part: named(part) if isinstance(part, tuple) else type(part).__name__,
)
def test_a_value_of_the_wrong_type_is_named(path: Path, value: object) -> None:
    with pytest.raises(WireError) as caught:
        parse_line(changed(path, value))

    assert caught.value.field.startswith(named(path))


@pytest.mark.parametrize("path", NUMBERS, ids=named)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e41, 10**400, -1e41], ids=str)
def test_a_number_that_is_none_is_named(path: Path, value: float) -> None:
    with pytest.raises(WireError) as caught:
        parse_line(changed(path, value))

    assert caught.value.field == named(path)


@pytest.mark.parametrize(
    "path", [p for p in NUMBERS if p[0] != "pairs" or p[-1] not in {"sum", "g_ns", "ns"}], ids=named
)
def test_a_negative_number_is_named(path: Path) -> None:
    with pytest.raises(WireError) as caught:
        parse_line(changed(path, -1))

    assert caught.value.field == named(path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("mode",), "blue-green"),
        (("metric", "kind"), "ordinal"),
        (("metric", "direction"), "sideways"),
        (("margin",), 0),
        (("alpha",), 0),
        (("alpha",), 1),
        (("alpha_promote",), 1.5),
        (("n_candidates",), 0),
        (("n_candidates",), 1.5),
        (("assigned", "share"), 1.01),
        (("strata", 0, "control", "sum"), 100.5),
        (("matured", 0, "candidate", "sum"), 101),
        (("strata", 0, "control", "g"), 101),
        (("strata", 0, "control", "g"), 0),
        (("strata", 0, "control", "g_nn"), 900),
        (("strata", 0, "control", "g_ss"), 800),
        (("strata", 0, "control", "days", "nn"), 2000),
        (("last", "candidate", "sum"), 2),
        (("pairs", "pos"), 86),
        (("pairs", "sum"), 101),
        (("pairs", "g"), 101),
    ],
    ids=lambda x: named(x) if isinstance(x, tuple) else str(x),
)
def test_what_no_experiment_can_produce_is_named(path: Path, value: object) -> None:
    with pytest.raises(WireError) as caught:
        parse_line(changed(path, value))

    assert caught.value.field == named(path)


def test_a_continuous_metric_may_sum_up_to_less_than_nothing() -> None:
    record = copy.deepcopy(RECORD)
    record["metric"] = {"kind": "continuous", "direction": "lower"}
    record["strata"][0]["control"] |= {"sum": -900, "sumsq": 9000, "g_ns": -9000, "g_ss": 90000, "days": None}
    record["strata"][0]["cross"] |= {"ns": -5, "sn": -5, "ss": -5}

    assert parse_line(json.dumps(record)).strata[0].control.sum == -900.0


@pytest.mark.parametrize("schema", ["covey.decide/2", "covey.decide", "covey.rollout/1", ""])
def test_another_schema_is_refused_before_anything_else(schema: str) -> None:
    with pytest.raises(WireVersionError) as caught:
        parse_line(json.dumps({"schema": schema, "strata": "something new"}))

    assert caught.value.field == "schema"


NOT_RECORDS = [
    "",
    " ",
    "{",
    "[]",
    "null",
    "3",
    '"covey.decide/1"',
    json.dumps(RECORD) + " {}",
    "NaN",
    "{'schema': 1}",
    "[" * 100_000,
    '{"a":' * 100_000,
    "9" * 5000,
]


@pytest.mark.parametrize(
    "line", [*NOT_RECORDS, "\ud800", b"\xff\xfe{}", b"\x00", json.dumps(RECORD)[:-1]], ids=range(17)
)
def test_what_is_no_json_object_is_refused(line: str | bytes) -> None:
    with pytest.raises(WireError) as caught:
        parse_line(line)

    assert caught.value.field == "record"


def test_depth_in_a_field_that_is_ignored_is_refused_too() -> None:
    deep = json.dumps(RECORD)[:-1] + ', "new": ' + "[" * 100_000 + "]" * 100_000 + "}"

    with pytest.raises(WireError):
        parse_line(deep)


def test_bytes_that_are_no_text_are_refused_even_where_they_would_be_ignored() -> None:
    damaged = json.dumps(RECORD).encode()[:-1] + b', "new": "\xff"}'

    with pytest.raises(WireError) as caught:
        parse_line(damaged)

    assert caught.value.field == "record"


def test_a_literal_that_json_does_not_know_is_refused_even_where_it_would_be_ignored() -> None:
    with pytest.raises(WireError) as caught:
        parse_line(changed(("new",), math.nan))

    assert caught.value.field == "record"


def test_a_message_shows_what_was_seen_and_what_to_do() -> None:
    with pytest.raises(WireError) as caught:
        parse_line(changed(("strata", 0, "control", "n"), -1))

    assert str(caught.value) == "strata[0].control.n: -1.0 is negative. Correct the sums; nothing was decided"


def is_decided_or_refused(line: str | bytes) -> bool:
    """Tell whether a line ends in finite numbers or in an error with a field; any other exception passes through."""
    try:
        found = decide(parse_line(line))
    except WireError as err:
        return err.field != ""
    return all(math.isfinite(number) for number in found.numbers.values())


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_record_with_a_few_strange_values_is_decided_on_or_refused(data: st.DataObject) -> None:
    strange = st.one_of(
        st.floats(), st.integers(), st.none(), st.text(max_size=5), st.booleans(), st.just([]), st.just({}),
        st.sampled_from([0, 1, 1e-320, 1e-9, 0.5, 1e15, 1e39, 1e300, -1e-9, -0.0]),
    )  # fmt: skip
    record = copy.deepcopy(RECORD)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(ALL))
        node: typing.Any = record
        for key in path[:-1]:
            inside = (isinstance(node, dict) and key in node) or (isinstance(node, list) and node)
            node = node[key] if inside else None
        if isinstance(node, dict):
            node[path[-1]] = copy.deepcopy(data.draw(strange))  # or one {} would hold itself

    assert is_decided_or_refused(json.dumps(record))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_line_is_decided_on_or_refused(data: st.DataObject) -> None:
    line = bytearray(json.dumps(RECORD).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(0, 255))

    assert is_decided_or_refused(bytes(line[: data.draw(st.integers(len(line) - 5, len(line)))]))


size = st.one_of(st.floats(1.0, 1e6), st.floats(1.0, 1e15), st.sampled_from([1.0, 1e15]))


@st.composite
def possible_arm(draw: st.DrawFn, *, bernoulli: bool) -> dict[str, typing.Any]:
    """An arm that some devices can have made, of any size."""
    n = draw(size)
    total = n * draw(st.floats(0.0, 1.0)) * (1.0 if bernoulli else draw(st.sampled_from([-1e3, 1.0, 1e-3])))
    g = draw(st.sampled_from([1.0, 2.0, 20.0, 1e4])) if n >= 1e4 else 1.0
    unequal, apart = draw(st.floats(1.0, 100.0)), draw(st.floats(1.0, 100.0))
    sums = {"g": g, "nn": n * n / g * unequal, "ns": n * total / g * unequal, "ss": total * total / g * apart}
    arm = {"n": n, "sum": total, "sumsq": total if bernoulli else n * draw(st.floats(0.0, 1e9))}
    arm |= {"g": g} | {f"g_{name}": sums[name] for name in ("nn", "ns", "ss")}
    if draw(st.booleans()):
        arm["days"] = sums
    if draw(st.booleans()):
        arm["assigned"] = draw(st.floats(0.0, 1e39))
    return arm


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_possible_record_is_decided_on_without_overflow(data: st.DataObject) -> None:
    draw, bernoulli = data.draw, data.draw(st.booleans())
    arms = possible_arm(bernoulli=bernoulli)
    stratum = st.fixed_dictionaries(
        {"control": arms, "candidate": arms},
        optional={
            "region": st.sampled_from("ab"),
            "cross": st.fixed_dictionaries(dict.fromkeys(("g", "nn", "ns", "sn", "ss"), size)),
        },
    )
    record: dict[str, typing.Any] = {
        **{name: RECORD[name] for name in ("schema", "alpha", "alpha_promote")},
        "n_candidates": draw(st.integers(1, 10**9)),
        "mode": draw(st.sampled_from(["ab", "canary", "shadow", "interleave"])),
        "margin": draw(st.one_of(st.floats(1e-39, 1e39), st.floats(1e-3, 1.0))),
        "metric": {
            "kind": "bernoulli" if bernoulli else "continuous",
            "direction": draw(st.sampled_from(["higher", "lower"])),
        },
        "strata": draw(st.lists(stratum, max_size=3)),
        "matured": draw(st.one_of(st.none(), st.lists(stratum, max_size=2))),
        "assigned": draw(
            st.one_of(st.none(), st.fixed_dictionaries({"control": size, "candidate": size, "share": st.floats(0, 1)}))
        ),
    }
    if draw(st.booleans()):
        pairs = draw(arms)
        record["pairs"] = pairs | {"pos": pairs["n"] * 0.3, "neg": pairs["n"] * draw(st.floats(0.0, 0.7))}

    found = decide(parse_line(json.dumps(record)))

    assert found.word in {"continue", "promote", "rollback"}
    assert all(math.isfinite(number) for number in found.numbers.values())
