"""The table of precomputed answers: a dictionary in a file, and whatever is done to the file, never a wrong answer."""

from __future__ import annotations

import math
import mmap
import pathlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import precomputed
from shared.errors import WireError
from shared.precomputed import PrecomputedTable

Entries = dict[bytes, tuple[float, ...]]
FEATURES, MODEL = "ab" * 32, "cd" * 32
HEAD = 96
quick = settings(deadline=None, max_examples=60)
# Few different bytes, so that keys share prefixes and one key's bytes turn up inside its neighbours.
keys = st.one_of(
    st.binary(min_size=16, max_size=16), st.lists(st.sampled_from(b"\x00\x01\xff"), min_size=16, max_size=16).map(bytes)
)
answers = st.tuples(st.floats(width=32, allow_nan=False, allow_infinity=False), st.floats(0, 1, width=32))
tables = st.dictionaries(keys, answers, max_size=40)


def build(entries: Entries, n_outputs: int = 2) -> bytes:
    return precomputed.build(entries, n_outputs=n_outputs, features_sha256=FEATURES, model_sha256=MODEL)


def key_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


@quick
@given(tables, st.lists(keys))
def test_a_table_answers_as_a_dictionary_does(entries: Entries, others: list[bytes]) -> None:
    table = PrecomputedTable(build(entries))
    table.check()
    assert (table.n_keys, table.n_outputs) == (len(entries), 2)
    assert (table.features_sha256, table.model_sha256) == (FEATURES, MODEL)
    assert list(table.items()) == sorted(entries.items())
    for key in [*entries, *others]:
        assert table.get(key) == entries.get(key)


@pytest.mark.parametrize("n", [0, 1, 2, 4, 5, 7, 8, 9, 1000])
def test_every_size_of_index_finds_every_key_and_no_other(n: int) -> None:
    entries = {key_of(i * (2**128 // max(n, 1))): (float(i),) for i in range(n)}
    data = build(entries, 1)
    assert len(data) == precomputed.size_bytes(n, 1)
    table = PrecomputedTable(data)
    table.check()
    for key, answer in entries.items():
        assert table.get(key) == answer
        assert table.get(key[:15] + bytes([key[15] ^ 1])) is None
    assert table.get(b"\xff" * 16) is None


def test_keys_with_one_prefix_fill_one_bucket_and_are_all_found() -> None:
    entries = {b"\x80" + bytes(13) + struct.pack(">H", i): (float(i),) for i in range(3000)}
    table = PrecomputedTable(build(entries, 1))
    table.check()
    assert all(table.get(key) == answer for key, answer in entries.items())
    assert table.get(b"\x80" + bytes(13) + struct.pack(">H", 3000)) is None


def test_a_key_whose_bytes_stand_across_two_others_is_not_found() -> None:
    first, second = b"\x00" * 8 + b"\x01" * 8, b"\x01" * 8 + b"\x02" * 8
    table = PrecomputedTable(build({first: (1.0,), second: (2.0,)}, 1))
    assert table.get(b"\x01" * 16) is None
    assert table.get(second) == (2.0,)


@pytest.mark.parametrize("shift", range(1, 16))
def test_a_key_is_found_behind_a_misaligned_copy_of_itself(shift: int) -> None:
    key = bytes([7] * shift + [8] * (16 - shift))
    decoy_low, decoy_high = bytes([0] * shift) + key[: 16 - shift], key[16 - shift :] + bytes([9] * (16 - shift))
    entries = {decoy_low: (0.0,), decoy_high: (1.0,), key: (2.0,)}
    table = PrecomputedTable(build(entries, 1))
    table.check()
    assert all(table.get(one) == answer for one, answer in entries.items())


def test_a_key_of_one_repeated_byte_is_found_among_its_like() -> None:
    entries = {bytes([5] * n + [6] * (16 - n)): (float(n),) for n in range(17)}
    table = PrecomputedTable(build(entries, 1))
    assert {key: table.get(key) for key in entries} == entries


@given(st.binary(min_size=16, max_size=16))
@settings(deadline=None, max_examples=300)
def test_no_key_makes_a_look_up_fail(key: bytes) -> None:
    assert _SOME.get(key) == _ENTRIES.get(key)


_ENTRIES = {key_of(i * 2**120 + i): (float(i), 0.0) for i in range(256)}
_SOME = PrecomputedTable(build(_ENTRIES))


def test_a_table_is_read_from_a_mapped_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "precomputed.bin"
    path.write_bytes(build(_ENTRIES))
    with path.open("rb") as file:
        table = PrecomputedTable(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    table.check()
    assert dict(table.items()) == _ENTRIES
    assert {key: table.get(key) for key in _ENTRIES} == _ENTRIES


def test_every_truncation_is_refused() -> None:
    data = build({key_of(i << 100): (0.5, 0.5) for i in range(6)})
    for length in range(len(data)):
        with pytest.raises(WireError, match="precomputed"):
            PrecomputedTable(data[:length])
    with pytest.raises(WireError, match="its header says"):
        PrecomputedTable(data + b"\0")


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_every_flipped_byte_of_header_and_index_is_refused_or_shows_in_what_the_table_belongs_to(mask: int) -> None:
    entries = {key_of(i << 124): (0.25, 0.75) for i in range(12)}
    data = build(entries)
    end = len(data) - 12 * 24
    assert end > HEAD
    for at in range(end):
        damaged = bytearray(data)
        damaged[at] ^= mask
        try:
            table = PrecomputedTable(bytes(damaged))
            table.check()
        except WireError:
            continue
        assert 32 <= at < HEAD, f"byte {at} is not looked at"
        assert (table.features_sha256, table.model_sha256) != (FEATURES, MODEL)


@quick
@given(st.data())
def test_a_damaged_table_that_passes_its_check_still_answers_or_says_no(data: st.DataObject) -> None:
    whole = bytearray(build({key_of(i << 124): (0.25, 0.75) for i in range(12)}))
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
        whole[at] = data.draw(st.integers(0, 255))
    try:
        table = PrecomputedTable(bytes(whole))
        table.check()
    except WireError:
        return
    for key in [*dict(table.items()), key_of(0), key_of(2**128 - 1)]:
        found = table.get(key)
        assert found is None or all(map(math.isfinite, found))


@given(st.binary(max_size=200))
@quick
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        PrecomputedTable(data)
    with pytest.raises(WireError):
        PrecomputedTable(precomputed.MAGIC + data)


@pytest.mark.parametrize(
    ("n", "m", "bits"), [(2**32 - 1, 1, 0), (1, 0, 0), (1, 2**32 - 1, 0), (1, 1, 21), (1, 1, 2**32 - 1)]
)
def test_sizes_that_are_not_possible_are_refused_before_anything_is_read(n: int, m: int, bits: int) -> None:
    with pytest.raises(WireError, match="are not possible"):
        PrecomputedTable(struct.pack("<8sIII76x", precomputed.MAGIC, n, m, bits))


def _with(data: bytes, at: int, what: bytes) -> PrecomputedTable:
    return PrecomputedTable(data[:at] + what + data[at + len(what) :])


def test_check_finds_keys_out_of_order_double_keys_and_answers_that_are_no_numbers() -> None:
    data = build({key_of(1): (0.5,), key_of(2): (0.5,)}, 1)
    keys_at = len(data) - 2 * 20
    with pytest.raises(WireError, match="key 1 is out of order"):
        _with(data, keys_at + 16, key_of(0)).check()
    with pytest.raises(WireError, match="key 1 is out of order"):
        _with(data, keys_at + 16, key_of(1)).check()
    with pytest.raises(WireError, match="not finite"):
        _with(data, len(data) - 4, struct.pack("<f", math.nan)).check()
    with pytest.raises(WireError, match="does not increase"):
        _with(data, HEAD, struct.pack("<I", 1)).check()


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({b"short": (1.0,)}, "5 bytes, not 16"),
        ({bytes(16): (1.0, 2.0)}, "not 1 finite"),
        ({bytes(16): ()}, "not 1 finite"),
        ({bytes(16): (math.nan,)}, "not 1 finite"),
        ({bytes(16): (-math.inf,)}, "not 1 finite"),
        ({bytes(16): (1e39,)}, "not 1 finite"),
    ],
)
def test_what_does_not_belong_into_a_table_is_refused(entries: Entries, says: str) -> None:
    with pytest.raises(WireError, match=says):
        build(entries, 1)
