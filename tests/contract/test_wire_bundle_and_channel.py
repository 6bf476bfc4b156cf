"""Manifests and channels: what is signed is read as it was written, and nonsense in it is refused by field."""

from __future__ import annotations

import json
import typing

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import bundle, channel, codec
from shared.bundle import Manifest, parse_manifest
from shared.channel import BundleRef, Channel, Experiment, Guard, ModelChannel, parse_channel
from shared.errors import CoveyError, WireError, WireVersionError

quick = settings(deadline=None, max_examples=60)
Plain = dict[str, typing.Any]
MANIFEST: Plain = {
    "schema": "covey.bundle/1",
    "model": "late",
    "version": "v1.1",
    "task": "binary",
    "metric": "log_loss",
    "classes": [0, 1],
    "n_outputs": 2,
    "features_sha256": "ab" * 32,
    "files": [
        {"name": name, "sha256": "cd" * 32, "length": 5}
        for name in ("card.json", "features.json", "golden.json", "model.onnx")
    ],
    "lineage": {"kind": "stateful", "parent": "v1"},
}
CHANNEL = Channel(
    region="north",
    sequence=5,
    models=(
        ModelChannel(
            model="late",
            incumbent=BundleRef(version="v1"),
            candidate=BundleRef(version="v2", variant="int8"),
            experiment=Experiment(mode="canary", epoch=3, salt="saltsalt", request_share_bp=5000),
            guard=Guard(failed_ratio=0.5),
        ),
        ModelChannel(model="sales", incumbent=BundleRef(version="v7")),
    ),
)
PLAIN_CHANNEL: Plain = json.loads(CHANNEL.to_bytes())


def put(record: Plain, path: tuple[str | int, ...], value: object) -> bytes:
    """Return a record as JSON with one value changed; ``...`` takes the field out."""
    made: typing.Any = json.loads(json.dumps(record))
    inner = made
    for step in path[:-1]:
        inner = inner[step]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return json.dumps(made).encode()


def test_a_manifest_is_read_as_it_was_written() -> None:
    manifest = parse_manifest(json.dumps(MANIFEST).encode())
    assert parse_manifest(manifest.to_bytes()) == manifest
    assert manifest.target_path == "bundles/late/v1.1/standard.json"
    assert manifest.file("model.onnx") == manifest.files[3]
    assert manifest.file("precomputed.bin") is None


def test_a_channel_is_read_as_it_was_written() -> None:
    assert parse_channel(CHANNEL.to_bytes()) == CHANNEL
    assert CHANNEL.target_path == "channels/north.json"


def test_the_way_a_newer_program_writes_is_understood() -> None:
    assert parse_channel(put(PLAIN_CHANNEL, ("models", 0, "colour"), "red")) == CHANNEL
    assert parse_manifest(put(MANIFEST, ("colour",), "red")) == parse_manifest(json.dumps(MANIFEST).encode())


def test_another_major_version_is_refused() -> None:
    with pytest.raises(WireVersionError):
        parse_channel(put(PLAIN_CHANNEL, ("schema",), "covey.channel/2"))
    with pytest.raises(WireVersionError):
        parse_manifest(put(MANIFEST, ("schema",), "covey.bundle/2"))


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("model",), "Late", "manifest model: 'Late' is not a name"),
        (("model",), "../etc", "manifest model"),
        (("version",), "1", "manifest version: '1' is not a version"),
        (("version",), "v1\u0662", "manifest version"),
        (("variant",), "a/b", "manifest variant"),
        (("metric",), "mape", "manifest metric: 'mape' is not a metric of the task 'binary'"),
        (("metric",), "squared_error", "manifest metric"),
        (("task",), "ranking", "covey.bundle/1 task"),
        (("metric_scale",), 0, "covey.bundle/1 metric_scale"),
        (("metric_scale",), 1e-300, "covey.bundle/1 metric_scale"),
        (("n_outputs",), 0, "covey.bundle/1 n_outputs"),
        (("n_outputs",), 3, "manifest classes: two classes need two outputs"),
        (("classes",), [0], "manifest classes"),
        (("classes",), [1, 1], "manifest classes: 1 is there twice"),
        (("classes",), [1, True], "manifest classes: True is there twice"),
        (("classes",), [0.5, 1], "covey.bundle/1 classes[0]"),
        (("default",), [0.5], "manifest default: 1 numbers, not 2"),
        (("default",), [0.5, 1e39], "manifest default: 1e+39 does not fit into a float32"),
        (("features_sha256",), "ab" * 32 + "\n", "covey.bundle/1 features_sha256"),
        (("features_sha256",), ..., "features_sha256"),
        (("files", 0, "sha256"), "AB" * 32, "covey.bundle/1 files[0].sha256"),
        (("files", 0, "length"), -1, "covey.bundle/1 files[0].length"),
        (("files", 0, "length"), 1 << 40, "covey.bundle/1 files[0].length"),
        (("files", 0, "name"), "../x", "manifest files[0].name: '../x' is twice there or no file name"),
        (("files", 0, "name"), ".hidden", "manifest files[0].name"),
        (("files", 0, "name"), "x\n", "manifest files[0].name"),
        (("files", 3, "name"), "card.json", "manifest files[3].name"),
        (("files", 0, "name"), "manifest.json", "manifest files[0].name"),
        (("files", 0), ..., "manifest files: card.json is missing"),
        (("files", 3), ..., "manifest files: model.onnx is missing"),
        (("label_window_s",), -1, "covey.bundle/1 label_window_s"),
        (("budgets",), {"load_s": 0}, "covey.bundle/1 budgets.load_s"),
        (("answer_order",), "table", "covey.bundle/1 answer_order"),
        (("lineage",), {}, "covey.bundle/1 lineage"),
    ],
)
def test_nonsense_in_a_manifest_is_refused_by_field(path: tuple[str | int, ...], value: object, says: str) -> None:
    with pytest.raises(WireError) as caught:
        parse_manifest(put(MANIFEST, path, value))
    assert says in str(caught.value)


def test_a_manifest_that_answers_from_the_table_alone_needs_no_model_but_a_table() -> None:
    only = MANIFEST | {"answer_order": "precomputed_only"}
    with pytest.raises(WireError, match=r"model\.onnx is missing"):
        parse_manifest(put(only, ("files", 3), ...))
    assert parse_manifest(put(only, ("files", 3, "name"), "precomputed.bin")).answer_order == "precomputed_only"


def test_a_regression_gives_one_number() -> None:
    plain = MANIFEST | {"task": "regression", "metric": "squared_error", "classes": []}
    with pytest.raises(WireError, match="a regression has one output, not 2"):
        parse_manifest(json.dumps(plain).encode())
    assert parse_manifest(json.dumps(plain | {"n_outputs": 1}).encode()).classes == ()


def test_classes_and_outputs_of_many_classes_go_together() -> None:
    plain = MANIFEST | {"task": "multiclass", "classes": ["a", "b", "c"]}
    with pytest.raises(WireError, match="3 classes, 2 outputs"):
        parse_manifest(json.dumps(plain).encode())
    assert parse_manifest(json.dumps(plain | {"n_outputs": 3}).encode()).n_outputs == 3


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("region",), "North", "channel region: 'North' is not a name"),
        (("region",), "../x", "channel region"),
        (("sequence",), 0, "covey.channel/1 sequence"),
        (("sequence",), 1 << 60, "covey.channel/1 sequence"),
        (("poll_interval_s",), 0, "covey.channel/1 poll_interval_s"),
        (("poll_jitter_ratio",), 2, "covey.channel/1 poll_jitter_ratio"),
        (("models", 0, "model"), "../late", "channel models[0].model"),
        (("models", 1, "model"), "late", "channel models: a model stands twice"),
        (("models", 0, "incumbent", "version"), "v0", "channel version"),
        (("models", 0, "candidate", "version"), "newest", "channel version"),
        (("models", 0, "candidate", "variant"), "a b", "channel models[0].variant"),
        (("models", 0, "candidate", "version"), "v1", "channel models[0].candidate: v1 is the incumbent"),
        (("models", 0, "candidate"), None, "channel models[0]: candidate and experiment go together"),
        (("models", 0, "experiment"), None, "channel models[0]: candidate and experiment go together"),
        (("models", 0, "experiment", "mode"), "ab", "covey.channel/1 models[0].experiment.mode"),
        (("models", 0, "experiment", "epoch"), 0, "covey.channel/1 models[0].experiment.epoch"),
        (("models", 0, "experiment", "salt"), "short", "covey.channel/1 models[0].experiment.salt"),
        (("models", 0, "experiment", "request_share_bp"), 10_001, "models[0].experiment.request_share_bp"),
        (("models", 0, "experiment", "request_share_bp"), 0.5, "models[0].experiment.request_share_bp"),
        (("models", 0, "experiment", "device_share_bp"), -1, "models[0].experiment.device_share_bp"),
        (("models", 0, "also"), [{"version": "v1"}], "channel models[0].candidate: v1 is the incumbent"),
        (("models", 0, "also"), [{"version": "v3"}] * 2, "channel models[0].candidate: v3 is a candidate twice"),
        (("models", 0, "also"), [{"version": f"v{i}"} for i in range(3, 11)], "covey.channel/1 models[0].also"),
        (("models", 0, "also"), [{"version": "newest"}], "channel version"),
        (("models", 0, "experiment", "arms"), [1, 2], "channel models[0].experiment.arms: 1 candidates have"),
        (("models", 0, "experiment", "arms"), [0], "models[0].experiment.arms[0]"),
        (
            ("models", 0, "experiment", "arms"),
            [15],
            "channel models[0].experiment.request_share_bp: the arms have more",
        ),
        (("models", 0, "pins"), {"d1": {"version": "newest"}}, "channel version"),
        (("models", 0, "guard", "failed_ratio"), 1.5, "models[0].guard.failed_ratio"),
        (("models", 0, "guard", "min_requests"), 0, "models[0].guard.min_requests"),
    ],
)
def test_nonsense_in_a_channel_is_refused_by_field(path: tuple[str | int, ...], value: object, says: str) -> None:
    with pytest.raises(WireError) as caught:
        parse_channel(put(PLAIN_CHANNEL, path, value))
    assert says in str(caught.value)


@pytest.mark.parametrize("read", [parse_manifest, parse_channel])
@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", b"\xff", b'"x"', b"{" * 100_000, b" " * (2 << 20)])
def test_garbage_is_a_wire_error(read: typing.Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(WireError):
        read(data)


@quick
@given(st.data())
def test_a_changed_byte_is_a_wire_error_or_a_record_that_makes_sense(data: st.DataObject) -> None:
    for read, body in ((parse_manifest, json.dumps(MANIFEST).encode()), (parse_channel, CHANNEL.to_bytes())):
        damaged = bytearray(body)
        for at in data.draw(st.lists(st.integers(0, len(body) - 1), min_size=1, max_size=2)):
            damaged[at] = data.draw(st.integers(0, 255))
        try:
            found = read(bytes(damaged))
        except CoveyError as err:
            assert isinstance(err, WireError)  # noqa: PT017 - either is right, anything else is not
        else:
            assert read(codec.to_json(found)) == found


@quick
@given(
    st.sampled_from([*MANIFEST, "label_window_s", "default"]),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=4)),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
        max_leaves=5,
    ),
)
def test_any_value_in_a_manifest_is_read_or_a_wire_error(field: str, value: object) -> None:
    try:
        manifest = parse_manifest(put(MANIFEST, (field,), value))
    except WireError:
        return
    assert parse_manifest(manifest.to_bytes()) == manifest


def test_limits_hold_for_sizes() -> None:
    many = [{"name": f"f{i}", "sha256": "ab" * 32, "length": 1} for i in range(20_000)]
    with pytest.raises(WireError, match="at most 1,048,576 are read"):
        parse_manifest(put(MANIFEST, ("files",), MANIFEST["files"] + many))


def test_the_hash_of_a_manifest_is_the_hash_of_its_bytes() -> None:
    assert bundle.digest_of(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert msgspec.structs.replace(CHANNEL, sequence=6).to_bytes() != CHANNEL.to_bytes()
    assert channel.target_path("x") == "channels/x.json"
    assert Manifest.SCHEMA == "covey.bundle/1"


def test_several_candidates_keep_the_numbers_of_their_arms() -> None:
    plain = json.loads(put(PLAIN_CHANNEL, ("models", 0, "also"), [{"version": "v8"}]))
    assert {arm: ref.version for arm, ref in parse_channel(json.dumps(plain).encode()).models[0].arms.items()} == {
        1: CHANNEL.models[0].candidates[0].version,
        2: "v8",
    }
    plain["models"][0]["experiment"] |= {"arms": [3, 1], "request_share_bp": 3333}
    assert [*parse_channel(json.dumps(plain).encode()).models[0].arms] == [3, 1]
