"""Records on the wire: what is written is read again; whatever else arrives is a WireError that names the field."""

from __future__ import annotations

import json
import math
import string
import typing

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import codec, protocol
from shared.bundle import Golden
from shared.errors import WireError, WireVersionError
from shared.summary import N_LATENCY_BINS, N_SCORE_BINS
from shared.telemetry import (
    MAX_BATCH_RAW_BYTES,
    Acknowledgement,
    Batch,
    DeviceStatus,
    Event,
    MeasuresRow,
    ModelStatus,
    PairsRow,
    SumsRow,
)

quick = settings(deadline=None, max_examples=50)
LIMIT = 1 << 16
words = st.text(string.ascii_letters + "-ä", min_size=1, max_size=20)
small = st.integers(0, 2**32 - 1)
counts = st.integers(0, 2**53)
totals = st.integers(-(2**62), 2**62)
moments = st.floats(0, 1e11)
sums = st.builds(
    SumsRow,
    words, words, small, small, st.booleans(), small, *[counts] * 7, totals, counts, totals, counts,
    score_bins=st.tuples(*[counts] * 2 * N_SCORE_BINS),
    latency_bins=st.tuples(*[counts] * N_LATENCY_BINS),
)  # fmt: skip
pairs = st.builds(PairsRow, words, small, small, counts, totals, counts, counts, counts)
measures = st.builds(
    MeasuresRow,
    words, words, small, small, st.booleans(), small, words, st.floats(1e-12, 1e12), counts, totals, counts,
)  # fmt: skip
events = st.builds(Event, at_s=moments, kind=words, detail=st.text(max_size=50))
models = st.builds(
    ModelStatus, model=words, incumbent=words, epoch=small, refused=st.dictionaries(words, words, max_size=2)
)
statuses = st.builds(DeviceStatus, generation=words, watermark_s=moments, models=st.tuples(models), stale_s=moments)
batches = st.builds(
    Batch,
    schema=st.just(""),
    device=words,
    spool=words,
    sequence=counts,
    sent_s=moments,
    status=statuses,
    sums=st.lists(sums, max_size=2).map(tuple),
    pairs=st.lists(pairs, max_size=2).map(tuple),
    events=st.lists(events, max_size=2).map(tuple),
    measures=st.lists(measures, max_size=2).map(tuple),
)
SOME = Batch(
    device="till-1",
    spool="ab12",
    sequence=3,
    sent_s=5.5,
    status=DeviceStatus(models=(ModelStatus(model="late", incumbent="v1"),), watermark_s=7.0),
    sums=(SumsRow("late", "v1", 0, 0, served=True, day=19_000, requests=5, outcomes=1, metric_sum=-3, excess_sum=9),),
    pairs=(PairsRow("late", 1, 19_000, 1, -5, 25, 0, 1),),
    events=(Event(1.0, "activated", "äöü"),),
    measures=(
        MeasuresRow("late", "v1", 0, 0, served=True, day=19_000, name="revenue", scale=10.0, n=2, sum=3, sumsq=5),
    ),
)
ACK = Acknowledgement(spool="ab12", sequence=3)


def read_batch(body: bytes) -> Batch:
    """Read a batch as the cloud does."""
    return codec.from_msgpack(codec.decompress(body, limit_bytes=LIMIT), Batch, limit_bytes=LIMIT)


def packed(batch: Batch) -> bytes:
    return codec.compress(codec.to_msgpack(batch))


@quick
@given(batches)
def test_a_batch_survives_both_encodings(batch: Batch) -> None:
    assert read_batch(packed(batch)) == batch
    assert codec.from_json(codec.to_json(batch), Batch) == batch


def test_writing_is_deterministic_whatever_the_order_of_a_dictionary() -> None:
    one = ModelStatus(model="m", refused={"v1": "a", "v2": "b"})
    other = ModelStatus(model="m", refused={"v2": "b", "v1": "a"})
    assert codec.to_json(one) == codec.to_json(other)
    assert codec.to_msgpack(one) == codec.to_msgpack(other)


def test_every_record_begins_with_its_schema() -> None:
    assert codec.to_json(ACK).startswith(b'{"schema":"covey.acknowledgement/1",')
    assert ACK.schema == "covey.acknowledgement/1"


def test_fields_that_a_newer_program_adds_are_passed_over() -> None:
    plain = json.loads(codec.to_json(SOME))
    plain["mood"] = plain["status"]["mood"] = {"new": [1]}
    assert codec.from_json(json.dumps(plain), Batch) == SOME
    plain["sums"][0] += ["newer", 7]
    plain["pairs"][0].append(None)
    assert codec.from_msgpack(msgspec.msgpack.encode(plain), Batch) == SOME


@pytest.mark.parametrize("major", ["2", "0", "10", "", "1.1", "x"])
def test_another_major_version_is_refused_as_such_even_if_its_fields_have_changed(major: str) -> None:
    said = {"schema": f"covey.acknowledgement/{major}", "spool": ["now", "a", "list"]}
    with pytest.raises(WireVersionError, match="Update the older side") as caught:
        codec.from_json(json.dumps(said), Acknowledgement)
    assert caught.value.field == "schema"
    with pytest.raises(WireVersionError):
        codec.from_msgpack(msgspec.msgpack.encode(said), Acknowledgement)


@pytest.mark.parametrize("schema", ["covey.telemetry/1", "acknowledgement/1", "COVEY.ACKNOWLEDGEMENT/1", "\0"])
def test_another_record_is_refused(schema: str) -> None:
    said = {"schema": schema, "spool": "a", "sequence": 1}
    with pytest.raises(WireError, match=r"expected a record 'covey\.acknowledgement'") as caught:
        codec.from_json(json.dumps(said), Acknowledgement)
    assert not isinstance(caught.value, WireVersionError)


@pytest.mark.parametrize("said", [{"spool": "a", "sequence": 1}, {"schema": "", "spool": "a", "sequence": 1}])
def test_a_record_that_does_not_say_what_it_is_is_refused(said: dict[str, object]) -> None:
    for data in (json.dumps(said).encode(), msgspec.msgpack.encode(said)):
        with pytest.raises(WireError) as caught:
            (codec.from_json if data[:1] == b"{" else codec.from_msgpack)(data, Acknowledgement)
        assert "schema" in str(caught.value)


_BODY = packed(SOME)


@pytest.mark.parametrize("mask", [0x01, 0x10, 0xFF])
def test_any_flipped_byte_of_a_batch_is_a_wire_error_or_still_a_batch(mask: int) -> None:
    for at in range(len(_BODY)):
        damaged = bytearray(_BODY)
        damaged[at] ^= mask
        try:
            assert isinstance(read_batch(bytes(damaged)), Batch)
        except WireError:
            continue


def test_any_truncated_batch_is_a_wire_error() -> None:
    for length in range(len(_BODY)):
        with pytest.raises(WireError):
            read_batch(_BODY[:length])


@quick
@given(st.binary(max_size=300))
def test_garbage_is_a_wire_error_in_every_format(data: bytes) -> None:
    for read in (codec.from_json, codec.from_msgpack):
        with pytest.raises(WireError):
            read(data, Batch)
    with pytest.raises(WireError):
        codec.decompress(data, limit_bytes=LIMIT)


json_values: st.SearchStrategy[typing.Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@quick
@given(st.sampled_from(sorted(json.loads(codec.to_json(SOME)))), json_values)
def test_any_value_in_any_field_is_read_or_refused_with_the_field(field: str, value: object) -> None:
    plain = json.loads(codec.to_json(SOME))
    plain[field] = value
    try:
        codec.from_msgpack(msgspec.msgpack.encode(plain), Batch)
    except WireError as err:
        refused = err.field
    else:
        return
    assert field in refused


def changed(path: tuple[str | int, ...], value: object) -> bytes:
    """The batch with one value changed."""
    plain = json.loads(codec.to_json(SOME))
    inner = plain
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return msgspec.msgpack.encode(plain)


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("sequence",), -1, "sequence"),
        (("sequence",), 2**53 + 1, "sequence"),
        (("sequence",), "1", "sequence"),
        (("sequence",), 1.5, "sequence"),
        (("device",), "", "device"),
        (("device",), "x" * 65, "device"),
        (("status",), None, "status"),
        (("status", "watermark_s"), math.nan, "status.watermark_s"),
        (("status", "watermark_s"), math.inf, "status.watermark_s"),
        (("status", "watermark_s"), -1.0, "status.watermark_s"),
        (("status", "stale_s"), math.nan, "status.stale_s"),
        (("sent_s",), math.nan, "sent_s"),
        (("events", 0, "at_s"), math.nan, "events[0].at_s"),
        (("events", 0, "detail"), "x" * 2001, "events[0].detail"),
        (("sums", 0, 6), -1, "sums[0][6]"),
        (("sums", 0, 5), 2**32, "sums[0][5]"),
        (("sums", 0, 4), 1, "sums[0][4]"),
        (("sums", 0, 13), 2**63, "sums[0][13]"),
        (("sums", 0, 17), [0] * 39, "sums[0][17]"),
        (("sums", 0), [], "sums[0]"),
        (("pairs", 0, 5), -1, "pairs[0][5]"),
        (("status", "models"), [{}] * 2, "status.models[0]"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_its_path(path: tuple[str | int, ...], value: object, field: str) -> None:
    with pytest.raises(WireError) as caught:
        codec.from_msgpack(changed(path, value), Batch)
    assert caught.value.field == f"covey.telemetry/1 {field}"


def test_more_rows_than_a_batch_may_have_are_refused() -> None:
    row = msgspec.to_builtins(SOME.pairs[0])
    with pytest.raises(WireError, match="length <= 50000"):
        codec.from_msgpack(changed(("pairs",), [row] * 50_001), Batch)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "[" * 200_000 + "]" * 200_000])
def test_nesting_without_end_is_a_wire_error(text: str) -> None:
    with pytest.raises(WireError):
        codec.from_json(text, Batch)
    with pytest.raises(WireError):
        codec.from_msgpack(b"\x91" * 200_000, Batch)


def test_a_record_over_its_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(WireError, match="at most 10 are read"):
        codec.from_json(b"?" * 11, Batch, limit_bytes=10)


# ---- zstd


@quick
@given(st.binary(max_size=5000))
def test_what_is_compressed_comes_back_up_to_the_limit_and_not_beyond(data: bytes) -> None:
    body = codec.compress(data)
    assert codec.decompress(body, limit_bytes=len(data)) == data
    if data:
        with pytest.raises(WireError, match="more than"):
            codec.decompress(body, limit_bytes=len(data) - 1)


def test_a_bomb_is_stopped_at_the_limit() -> None:
    bomb = codec.compress(bytes(MAX_BATCH_RAW_BYTES))
    assert len(bomb) < 10_000
    with pytest.raises(WireError, match="decompresses to more than 65,536 bytes"):
        codec.decompress(bomb, limit_bytes=LIMIT)


def test_a_frame_that_wants_a_huge_window_is_refused_without_giving_it_memory() -> None:
    # Magic, descriptor without content size, window of 2**31 bytes, one empty last block.
    frame = bytes.fromhex("28b52ffd") + b"\x00" + bytes([21 << 3]) + b"\x01\x00\x00"
    with pytest.raises(WireError, match="not a zstd frame"):
        codec.decompress(frame, limit_bytes=LIMIT)


def test_bytes_behind_the_frame_and_a_second_frame_are_refused() -> None:
    for more in (b"x", codec.compress(b"second"), bytes(100)):
        with pytest.raises(WireError, match="bytes follow"):
            codec.decompress(codec.compress(b"first") + more, limit_bytes=LIMIT)


# ---- the conversation


def test_a_join_token_survives_being_written_down() -> None:
    token = protocol.JoinToken("7", "s3cret", "ab" * 32)
    assert protocol.parse_join_token(f" {token}\n") == token


@pytest.mark.parametrize(
    "text", ["", "covey-join", "covey-join.a.b", "covey-join.a..c", "covey.a.b.c", "covey-join.a.b.c.d"]
)
def test_what_is_no_join_token_is_refused_with_where_to_get_one(text: str) -> None:
    from shared.errors import UsageError

    with pytest.raises(UsageError, match="covey device token"):
        protocol.parse_join_token(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("device", "till-1\n"), ("device", "till 1"), ("device", ""), ("device", "-x"), ("device", "x" * 64),
        ("device", "../x"), ("public_key", "ab" * 32 + "\n"), ("public_key", "AB" * 32), ("public_key", "ab" * 31),
        ("secret", "x" * 129), ("token_id", "x" * 65),
    ],
)  # fmt: skip
def test_a_device_that_gives_an_odd_name_or_key_is_refused_by_field(field: str, value: str) -> None:
    said = {"schema": "covey.join/1", "token_id": "1", "secret": "s", "device": "till-1", "public_key": "ab" * 32}
    codec.from_json(json.dumps(said), protocol.JoinRequest)
    with pytest.raises(WireError) as caught:
        codec.from_json(json.dumps(said | {field: value}), protocol.JoinRequest)
    assert caught.value.field == f"covey.join/1 {field}"


def test_a_signature_says_what_it_is_for() -> None:
    assert protocol.sign_in_message("till-1", "n") == b"covey sign-in v1\ntill-1\nn"


def test_golden_rows_keep_text_numbers_flags_and_gaps_apart() -> None:
    golden = Golden(rows=({"a": "1", "b": 1.5, "c": True, "d": None},), outputs=((0.5,),))
    (row,) = codec.from_json(codec.to_json(golden), Golden).rows
    assert {name: type(value) for name, value in row.items()} == {"a": str, "b": float, "c": bool, "d": type(None)}
