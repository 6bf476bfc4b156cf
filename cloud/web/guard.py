"""Who may see the pages: people on this machine, unless the project says otherwise. Devices are never asked."""

from __future__ import annotations

import ipaddress

import flask

from cloud.web.context import context
from shared.errors import ForbiddenError

_FIX = 'People on other machines may see pages once covey.toml says [serve] pages = "all".'
_PROXY_HEADERS = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")


class NotLocalError(ForbiddenError):
    """Pages are for people on this machine."""

    code = "not-local"


def local_only() -> None:
    """Refuse a request that did not come from this machine; made for `before_request`.

    Three things must hold: the connection comes from a loopback address; nobody has passed the request on; and the
    address in the browser is this machine's, so that a site whose name was made to point here can not read the pages.

    Raises
    ------
    NotLocalError
        With the setting that opens the pages.
    """
    serve = context().project.settings.serve
    if serve.pages == "all":
        return
    request = flask.request
    address = request.remote_addr or ""
    if not is_loopback(address):
        raise NotLocalError(f"pages are for people on this machine, and {address or 'nobody'!r} is not", fix=_FIX)
    passed_on = next((name for name in _PROXY_HEADERS if name in request.headers), "")
    if passed_on:
        raise NotLocalError("the request was passed on by a proxy", field=passed_on, fix=_FIX)
    host = host_of(request.environ.get("HTTP_HOST", ""))
    if not (host == "localhost" or host.endswith(".localhost") or host == serve.host or is_loopback(host)):
        raise NotLocalError(f"{host[:100]!r} is not a name of this machine", field="Host", fix=_FIX)


def is_loopback(address: str) -> bool:
    """Whether an address belongs to this machine alone.

    >>> [is_loopback(a) for a in ("127.0.0.1", "127.8.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.1", "")]
    [True, True, True, True, False, False]
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


def host_of(header: str) -> str:
    """Return the name or address in a Host header, without its port.

    >>> [host_of(text) for text in ("localhost:8080", "[::1]:8080", "[::1]", "Evil.Example.:80", "")]
    ['localhost', '::1', '::1', 'evil.example', '']
    """
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower().rstrip(".")
