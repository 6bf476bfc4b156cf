"""Replies as bytes of HTTP/1.1."""

from __future__ import annotations

from edge_agent.predict.replies import Response

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
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


def _reason(status: int) -> str:
    """Name a status; a server that only ever says OK has no need for all of them."""
    import http

    return http.HTTPStatus(status).phrase
