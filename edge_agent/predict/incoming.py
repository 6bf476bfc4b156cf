"""What a client sends, taken apart by httptools into whole requests, within limits."""

from __future__ import annotations

import collections
import typing

import httptools

from edge_agent.predict import quick
from edge_agent.predict.encodings import TooLargeError
from edge_agent.predict.routes import Head
from shared.errors import CoveyError, WireError

_MAX_HEAD_BYTES = 64 << 10
_SMALL_BODY_BYTES = 64 << 10
_LENGTH, _EXPECT, _ENCODING, _HEADER_LENGTH, _HOST, _ACCEPTS, _TRANSFER, _ORIGIN = range(8)
_WATCHED = {
    b"content-length": _LENGTH,
    b"expect": _EXPECT,
    b"content-encoding": _ENCODING,
    b"inference-header-content-length": _HEADER_LENGTH,
    b"host": _HOST,
    b"origin": _ORIGIN,
    b"accept-encoding": _ACCEPTS,
    b"transfer-encoding": _TRANSFER,
}
_NO_HEAD, _OLD = Head(), "1.0"


class Request(typing.NamedTuple):
    """A whole request."""

    method: str
    path: str
    body: bytes
    keep_alive: bool
    head: Head
    is_plain: bool = False


PLAIN = Request("POST", quick.PATH, b"", keep_alive=True, head=_NO_HEAD, is_plain=True)


def plain(path: str, body: bytes, head: Head) -> Request:
    """Return a POST on a connection that stays, whose body is as it came."""
    return Request("POST", path, body, True, head, True)  # noqa: FBT003 - by place is faster


class Incoming:
    """Takes bytes, and queues requests.

    Parameters
    ----------
    max_body_bytes : int
        Larger requests are refused.
    hold : callable
        Told how many more bytes of a large body are kept; raises if there is no room for them.
    give_leave : callable
        Called when a client waits for leave to send its body.
    check_host : callable
        Told what the header Host says, and which page asks where a browser says so; raises if this device does not
        answer to that.
    """

    def __init__(
        self,
        max_body_bytes: int,
        hold: typing.Callable[[int], None],
        give_leave: typing.Callable[[], None],
        check_host: typing.Callable[[bytes], object] = bool,
    ) -> None:
        self._max_body_bytes, self._hold, self._give_leave = max_body_bytes, hold, give_leave
        self._check_host = check_host
        self._parser = httptools.HttpRequestParser(self)
        self.queue: collections.deque[Request] = collections.deque()
        self._begin()

    def _begin(self) -> None:
        self._url, self._size, self._fields, self._unparsed = b"", 0, 0, 0
        self._body: list[bytes] = []
        self._head = _NO_HEAD
        self._in_head, self._wants_leave = True, False
        self.is_between = True

    @property
    def is_in_body(self) -> bool:
        """Whether a part of a body has come, and the rest has not."""
        return self._size > 0

    def feed(self, data: bytes) -> None:
        """Take what came.

        Raises
        ------
        CoveyError
            It is not HTTP, or larger than it may be. What came before it is in the queue.
        """
        if self._in_head:
            self._unparsed += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as err:
            cause = err.__context__
            if isinstance(cause, CoveyError):
                raise cause from None
            raise WireError(f"not HTTP: {err}", field="request") from err
        if self._in_head and self._unparsed > _MAX_HEAD_BYTES:
            raise _long_head()

    # ---- httptools calls these

    def on_message_begin(self) -> None:
        """A request has begun."""
        self.is_between = False

    def on_url(self, url: bytes) -> None:
        """Collect the path."""
        self._url += url
        self._fields += len(url)
        if self._fields > _MAX_HEAD_BYTES:
            raise _long_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Look at the few headers that matter; a body announced too large is refused unread."""
        self._fields += len(name) + len(value) + 4
        if self._fields > _MAX_HEAD_BYTES:
            raise _long_head()
        watched = _WATCHED.get(name.lower())
        if watched is not None and self._in_head:  # what trails a body says nothing of the request
            self._note(watched, value)

    def _note(self, watched: int, value: bytes) -> None:
        if watched == _LENGTH:
            if value.isdigit() and int(value[:19]) > self._max_body_bytes:
                raise TooLargeError(f"a body of {int(value[:19]):,} bytes", field="content-length")
        elif watched == _HOST:
            self._check_host(value)
        elif watched == _ORIGIN:
            self._check_host(value.partition(b"://")[2] or value)
        elif watched == _TRANSFER:
            if value.strip().lower() != b"chunked":
                raise WireError("only chunked is read here", field="transfer-encoding", fix="Use Content-Encoding.")
        elif watched == _EXPECT:
            self._wants_leave = value.lower() == b"100-continue"
        elif watched == _ACCEPTS:
            accepts = self._head.accepts
            self._head = self._head._replace(accepts=accepts + b"," + value if accepts else value)
        elif watched == _ENCODING:
            self._head = self._head._replace(encoding=value)
        else:
            self._head = self._head._replace(header_length=value)

    def on_headers_complete(self) -> None:
        """From here on what comes is body."""
        self._in_head, self._unparsed = False, 0
        if not self._url.startswith(b"/"):
            self._url = self._without_origin(self._url)
        if self._wants_leave and self._parser.get_http_version() != _OLD:  # there it would be taken for the reply
            self._give_leave()

    def _without_origin(self, url: bytes) -> bytes:
        """Return the path of a target that names its server, as clients of a proxy write it; others stay."""
        scheme, _, rest = url.partition(b"://")
        if scheme.lower() != b"http" or not rest:
            return url
        end = min(at for mark in b"/?#" if (at := (rest + b"/").find(mark)) >= 0)
        self._check_host(rest[:end])
        return rest[end:] if rest[end : end + 1] == b"/" else b"/" + rest[end:]

    def on_body(self, body: bytes) -> None:
        """Collect the body; large ones only while there is room for them."""
        self._size += len(body)
        if self._size > _SMALL_BODY_BYTES:
            if self._size > self._max_body_bytes:
                raise TooLargeError(f"more than {self._max_body_bytes:,} bytes", field="body")
            self._hold(len(body))
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Take a whole request."""
        parser = self._parser
        if parser.should_upgrade():  # the parser has passed over its body
            raise WireError("upgrades are not spoken here", field="upgrade", fix="Send plain HTTP/1.1.")
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        method, path = parser.get_method().decode("latin-1"), self._url.decode("latin-1")
        # Who speaks the old version, and asks for more, waits for the end unless the reply promises not to end.
        keep_alive = parser.should_keep_alive() and parser.get_http_version() != _OLD
        head = self._head
        is_whole = head.header_length is None and not head.encoding and not self._wants_leave
        is_plain = method == "POST" and keep_alive and is_whole
        self.queue.append(Request(method, path, body, keep_alive, head, is_plain))
        self._begin()


def _long_head() -> TooLargeError:
    return TooLargeError(f"more than {_MAX_HEAD_BYTES:,} bytes of headers", field="headers")
