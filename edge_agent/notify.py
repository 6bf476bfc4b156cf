"""Tell systemd how the agent is: ready, stopping, alive (sd_notify(3), a datagram to a socket)."""

from __future__ import annotations

import asyncio
import os
import socket
import typing

_BEATS = 3  # beats in the time after which systemd takes the agent for dead


class Notifier:
    """Speaks to the service manager, if one listens.

    Parameters
    ----------
    environ : mapping
        Where the service manager says how to be told.
    """

    def __init__(self, environ: typing.Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        is_mine = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        text = environ.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(text) * 1e-6 if is_mine and text.isdecimal() else 0.0

    def say(self, *lines: str) -> bool:
        """Send a message such as ``READY=1``; false if nobody could be told, which is no reason to stop."""
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return False
        return True

    async def keep_beating(self) -> None:
        """Say that the event loop turns, often enough; a loop that hangs is restarted by the service manager."""
        while self.watchdog_s:
            self.say("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / _BEATS)
