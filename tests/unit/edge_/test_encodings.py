"""Compressed bodies: unpacked whole or refused, and never more than the limit."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import pathlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.predict import wire
from edge_agent.predict.encodings import TooLargeError, choose, packed, unpacked
from edge_agent.predict.replies import Response
from shared.errors import CoveyError, WireError
from tests import fakes

LIMIT = 1000
GZIPPED = gzip.compress(b"{}", mtime=0)  # the same in each process that collects tests
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
        (GZIPPED[:-1], b"gzip", "not one whole"),
        (GZIPPED + b"x", b"gzip", "not one whole"),
        (GZIPPED * 2, b"gzip", "not one whole"),
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


@given(st.sampled_from(["gzip", "deflate"]), st.binary(max_size=LIMIT))
def test_what_is_compressed_here_is_read_by_whoever_reads_it(name: str, body: bytes) -> None:
    read = {"gzip": gzip.decompress, "deflate": zlib.decompress}[name]
    assert read(packed(body, name)) == body


@pytest.mark.parametrize(
    ("accepts", "chosen"),
    [
        (b"gzip", "gzip"), (b"deflate", "deflate"), (b"deflate, gzip", "gzip"), (b"GZIP", "gzip"), (b"*", "gzip"),
        (b"gzip;q=0.2, deflate;q=0.8", "deflate"), (b"gzip;q=0, *", "deflate"), (b"gzip; q=0", ""), (b"*;q=0", ""),
        (b"", ""), (b"br", ""), (b"identity", ""), (b"gzip;q=much", ""), (b"identity, *;q=0", ""), (b"\xff;=,;q", ""),
    ],
)  # fmt: skip
def test_the_encoding_of_a_reply_is_one_that_the_client_takes(accepts: bytes, chosen: str) -> None:
    assert choose(accepts) == chosen


@pytest.mark.parametrize(("size", "accepts"), [(1399, b"gzip"), (5000, b""), (5000, b"br"), (5000, b"gzip;q=0")])
def test_small_replies_and_replies_for_others_stay_as_they_are(size: int, accepts: bytes) -> None:
    reply = Response(200, bytes(size))
    assert wire.packed(reply, accepts) is reply


def test_a_reply_is_compressed_once() -> None:
    reply = wire.packed(Response(200, bytes(5000), headers=(("Retry-After", "1"),)), b"gzip")
    assert gzip.decompress(reply.body) == bytes(5000)
    assert reply.headers == (("Retry-After", "1"), ("Vary", "Accept-Encoding"), ("Content-Encoding", "gzip"))
    assert wire.packed(reply, b"gzip") is reply


@pytest.mark.parametrize("n_rows", [32, 64, 3000])  # at once, in turns, and beside the event loop
@pytest.mark.parametrize("path", ["/v1/predict", "/v2/models/late/infer"])
def test_replies_are_compressed_for_who_asks_and_say_the_same(tmp_path: pathlib.Path, path: str, n_rows: int) -> None:
    xs = [i % 7 for i in range(n_rows)]
    asked: dict[str, object] = {"rows": [{"x": x} for x in xs]}
    if path.startswith("/v2"):
        names = ({"name": "probabilities"}, {"name": "source"})
        asked = {"inputs": [{"name": "x", "shape": [n_rows], "datatype": "FP64", "data": xs}], "outputs": names}
    body = json.dumps(asked)
    unpack = {None: bytes, "gzip": gzip.decompress, "deflate": zlib.decompress}
    said = []
    with fakes.listening(fakes.serve(tmp_path, fakes.make_bundle()).api) as (host, port):
        for how in (None, "gzip", "deflate", None, "gzip", "deflate"):  # the second time their heads are known
            with contextlib.closing(http.client.HTTPConnection(host, port)) as line:
                line.request("POST", path, body, {"Accept-Encoding": how} if how else {"Accept": "*/*"})
                reply = line.getresponse()
                assert (reply.status, reply.headers["Content-Encoding"]) == (200, how)
                said.append(json.loads(unpack[how](reply.read())))
    if path.startswith("/v2"):
        assert [one["outputs"] for one in said] == [said[0]["outputs"]] * 6
    else:
        assert all(
            [one["probabilities"] for one in all_["predictions"]]
            == [one["probabilities"] for one in said[0]["predictions"]]
            for all_ in said
        )
    assert len(said[0].get("predictions", xs)) == n_rows
