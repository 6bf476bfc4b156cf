"""Join a fleet: make a key, ask with a join token, and trust the root metadata whose hash the token carries."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import time
import typing

from edge_agent.config import Identity, Layout
from edge_agent.files import write_atomic
from edge_agent.update.state import State
from shared import codec, protocol
from shared.errors import ConflictError, TrustError, UnreachableError
from shared.versions import check_device_name

_SECRET_MODE, _FOLDER_MODE = 0o600, 0o700
_PAUSE_S = 2.0


class Keys(typing.Protocol):
    """Makes and writes the device's key."""

    def pem(self) -> bytes:
        """Private half."""

    def public_hex(self) -> str:
        """Public half."""


class Joined(typing.NamedTuple):
    """Who this device is, and whether somebody has to approve it first."""

    identity: Identity
    is_pending: bool


Exchange = typing.Callable[[str, codec.Record, type[protocol.JoinReply]], protocol.JoinReply]


def join(layout: Layout, url: str, device: str, token: protocol.JoinToken, *, keys: Keys, exchange: Exchange) -> Joined:
    """Join; everything is written before the identity, so that half a join is no join.

    Raises
    ------
    ConflictError
        This store belongs to a fleet already.
    UsageError
        No device can have this name.
    TrustError
        The cloud showed another root than the token promises.
    """
    if layout.identity.exists():
        raise ConflictError(
            f"{layout.store} already belongs to {layout.load_identity().cloud_url}", fix="Use another --store."
        )
    check_device_name(device, "--name")
    request = protocol.JoinRequest(
        token_id=token.token_id, secret=token.secret, device=device, public_key=keys.public_hex()
    )
    # The key is kept before the cloud hears of it: a join that is cut off can be repeated with the same key.
    keep_key(layout, keys.pem())
    reply = exchange(protocol.JOIN_PATH, request, protocol.JoinReply)
    root = reply.root.encode()
    if hashlib.sha256(root).hexdigest() != token.root_sha256:
        raise TrustError(
            "the cloud's root metadata is not the one the token promises", field="root", fix="Get a new token, safely."
        )
    write_atomic(layout.id_key, secrets.token_bytes(32), _SECRET_MODE)
    write_atomic(layout.root, root)
    if reply.labels:
        with contextlib.closing(State(layout.state_db)) as state:
            state.set_labels(reply.labels)
    identity = Identity(device=reply.device, region=reply.region, cloud_url=url)
    write_atomic(layout.identity, codec.to_json(identity))
    return Joined(identity, is_pending=reply.status == "pending")


def keep_key(layout: Layout, pem: bytes) -> None:
    """Write the device's key where only this user may read it."""
    layout.keys.mkdir(parents=True, exist_ok=True, mode=_FOLDER_MODE)
    layout.store.chmod(_FOLDER_MODE)
    write_atomic(layout.device_key, pem, _SECRET_MODE)


def wait_for_approval(
    sign_in: typing.Callable[[], object],
    wait_s: float,
    *,
    clock: typing.Callable[[], float] = time.monotonic,
    sleep: typing.Callable[[float], None] = time.sleep,
) -> bool:
    """Ask until somebody has approved this device, or the time is over; return whether it may deliver.

    Raises
    ------
    AuthError
        It was rejected.
    """
    deadline = clock() + wait_s
    while True:
        try:
            sign_in()
        except UnreachableError:  # not approved yet, or no network for a moment
            left_s = deadline - clock()
            if left_s <= 0:
                return False
            sleep(min(_PAUSE_S, left_s))
        else:
            return True
