"""Compressed bodies: unpacked whole or refused, and never more than the limit."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.predict.encodings import TooLargeError, unpacked
from shared.errors import CoveyError, WireError

LIMIT = 1000
PACK = {b"gzip": gzip.compress, b"deflate": zlib.compress, b"identity": bytes, b" GZIP ": gzip.compress}


@given(st.sampled_from(sorted(PACK)), st.binary(max_size=LIMIT))
def test_what_was_compressed_comes_back(encoding: bytes, body: bytes) -> None:
    assert unpacked(PACK[encoding](body), encoding, LIMIT) == body


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
@pytest.mark.parametrize("size", [LIMIT + 1, 50_000_000])
def test_a_body_that_unpacks_to_more_than_the_limit_is_refused(encoding: bytes, size: int) -> None:
    with pytest.raises(TooLargeError, match="more than 1,000 bytes when unpacked"):
        unpacked(PACK[encoding](bytes(size)), encoding, LIMIT)


@pytest.mark.parametrize(
    ("body", "encoding", "says"),
    [
        (b"{}", b"gzip", "not gzip"),
        (b"", b"gzip", "not one whole gzip stream"),
        (gzip.compress(b"{}")[:-1], b"gzip", "not one whole"),
        (gzip.compress(b"{}") + b"x", b"gzip", "not one whole"),
        (gzip.compress(b"{}") * 2, b"gzip", "not one whole"),
        (zlib.compress(b"{}"), b"gzip", "not gzip"),
        (b"{}", b"br", "Use gzip or deflate."),
        (b"{}", b"gzip, gzip", "Use gzip or deflate."),
        (b"{}", b"\xff" * 100, "Use gzip or deflate."),
    ],
)
def test_what_is_no_whole_stream_of_a_known_kind_is_refused(body: bytes, encoding: bytes, says: str) -> None:
    with pytest.raises(WireError, match=says):
        unpacked(body, encoding, LIMIT)


@given(st.sampled_from([b"gzip", b"deflate"]), st.binary(max_size=200), st.data())
def test_damaged_bodies_are_refused_or_come_back_whole(encoding: bytes, body: bytes, data: st.DataObject) -> None:
    packed = bytearray(PACK[encoding](body))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= data.draw(st.integers(1, 255))
    try:
        got = unpacked(bytes(packed), encoding, LIMIT)
    except CoveyError:
        return
    assert got == body  # a flag in the header that means nothing here
