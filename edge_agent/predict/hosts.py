"""Names that a device answers to: a web page must not get at it by letting its own name point to this machine.

Who opens a page lets its program ask any server, and read what it says if the server has the page's name. So a page
whose name suddenly means 127.0.0.1 (DNS rebinding) could read and ask everything here. It can not hide its name: the
browser sends it in the header Host. Any other page can post without reading the reply, and have things counted that
nobody asked; what it is called stands in the header Origin.
"""

from __future__ import annotations

import typing

from shared.errors import ForbiddenError

_LOCAL = ("localhost", "[::1]")
_LOOPBACK = "127."


def is_loopback(address: str) -> bool:
    """Whether only programs on this machine can reach an address that is listened on.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    return address.startswith(_LOOPBACK) or address == "::1"


class Hosts:
    """What the header Host may say.

    Parameters
    ----------
    names : iterable of str
        Beside localhost and the addresses of the loopback interface.
    """

    def __init__(self, names: typing.Iterable[str] = ()) -> None:
        self._names = {name.lower() for name in (*_LOCAL, *names)}

    def check(self, said: bytes) -> None:
        """Look at a header Host.

        Raises
        ------
        ForbiddenError
            It is none of the names.
        """
        text = said.decode("latin-1").strip().lower()
        before, _, port = text.rpartition(":")
        name = (before if port.isdigit() else text).rstrip(".")
        if name in self._names or _is_ipv4_loopback(name):
            return
        raise ForbiddenError(
            f"this device does not answer to {text[:80]!r}",
            field="host",
            fix="Ask it at 127.0.0.1, or add the name to serve.names in edge.toml.",
        )


def _is_ipv4_loopback(name: str) -> bool:
    parts = name.split(".")
    return len(parts) == 4 and name.startswith(_LOOPBACK) and all(part.isdigit() for part in parts)  # noqa: PLR2004
