"""Replies as bytes of HTTP/1.1."""

from __future__ import annotations

from edge_agent.predict import encodings
from edge_agent.predict.replies import Response

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
# Less fits into one packet anyway; more than the other is compressed beside the event loop.
SMALLEST_BYTES, LARGE_BYTES = 1400, 64 << 10
_ENCODED = "Content-Encoding"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def written(response: Response, *, is_head: bool, is_last: bool) -> bytes:
    """Write a reply.

    Parameters
    ----------
    is_head : bool
        Only its head was asked for.
    is_last : bool
        No other follows on the connection.
    """
    more = "".join([f"{name}: {value}\r\n" for name, value in response.headers])
    connection = "Connection: close\r\n" if is_last else ""
    head = (
        f"HTTP/1.1 {response.status} {_reason(response.status)}\r\nContent-Type: {response.kind}\r\n"
        f"Content-Length: {len(response.body)}\r\n{more}{connection}\r\n"
    )
    return head.encode("latin-1") + (b"" if is_head else response.body)


def packed(response: Response, accepts: bytes) -> Response:
    """Compress a reply if that is worth it and the client reads it; one that is compressed already stays as it is."""
    if not accepts or len(response.body) < SMALLEST_BYTES or (response.headers and response.headers[-1][0] == _ENCODED):
        return response
    name = encodings.choose(accepts)
    if not name:
        return response
    headers = (*response.headers, ("Vary", "Accept-Encoding"), (_ENCODED, name))
    return response._replace(body=encodings.packed(response.body, name), headers=headers)


def _reason(status: int) -> str:
    """Name a status; a server that only ever says OK has no need for all of them."""
    import http

    return http.HTTPStatus(status).phrase
