"""Forward the outbox: seal, send, acknowledge, until nothing waits."""

from __future__ import annotations

import typing

import msgspec

from edge_agent.telemetry.outbox import MakeBody, Outbox
from shared import codec
from shared.errors import WireError
from shared.telemetry import Acknowledgement, Batch, DeviceStatus, Event, MeasuresRow, PairsRow, SumsRow

Send = typing.Callable[[bytes], Acknowledgement]
_MAX_BATCHES_A_PASS = 200


def forward(
    outbox: Outbox,
    device: str,
    status: typing.Callable[[], DeviceStatus],
    send: Send,
    *,
    now_s: typing.Callable[[], float],
    say_hello: bool,
) -> int:
    """Deliver what waits; return how many batches the cloud has taken.

    Parameters
    ----------
    status : callable
        What the device is doing, asked just before a batch is sealed.
    send : callable
        Delivers one batch and returns the cloud's word; raises UnreachableError while there is no network.
    say_hello : bool
        Send a batch even if there is nothing but the status.
    """
    delivered = 0
    for _ in range(_MAX_BATCHES_A_PASS):
        sealed = outbox.sealed()
        if sealed is None:
            if not outbox.has_pending() and not (say_hello and delivered == 0):
                break
            # The status is asked while nothing is locked: the serving process, who answers, may want the spool itself.
            outbox.seal(_sealer(outbox, device, status(), now_s))
            continue
        sequence, body = sealed
        word = send(body)
        if (word.spool, word.sequence) != (outbox.spool_id, sequence):
            raise WireError(
                f"acknowledged {word.spool}/{word.sequence}, sent {outbox.spool_id}/{sequence}", field="sequence"
            )
        outbox.acknowledge(sequence)
        delivered += 1
        # A batch sealed long ago carries an old status: let a fresh one follow it.
        say_hello = say_hello and delivered == 0
    return delivered


def seal_pending(
    outbox: Outbox, device: str, status: typing.Callable[[], DeviceStatus], *, now_s: typing.Callable[[], float]
) -> int:
    """Seal everything that waits, without sending it; return how many batches were made."""
    made = 0
    while outbox.has_pending() and made < _MAX_BATCHES_A_PASS:
        outbox.seal(_sealer(outbox, device, status(), now_s))
        made += 1
    return made


def _sealer(outbox: Outbox, device: str, status: DeviceStatus, now_s: typing.Callable[[], float]) -> MakeBody:
    """Return what makes a batch; the status was asked before, while nothing was locked."""

    def make_body(
        sequence: int,
        sums: list[SumsRow],
        pairs: list[PairsRow],
        events: list[Event],
        measures: tuple[MeasuresRow, ...],
    ) -> bytes:
        batch = Batch(
            device=device,
            spool=outbox.spool_id,
            sequence=sequence,
            sent_s=now_s(),
            status=status,
            sums=tuple(sums),
            pairs=tuple(pairs),
            events=tuple(events),
            measures=measures,
        )
        return codec.compress(codec.to_msgpack(batch))

    return make_body


def parse_acknowledgement(body: bytes) -> Acknowledgement:
    """Read the cloud's word."""
    return codec.from_json(body, Acknowledgement, limit_bytes=1 << 16)


def status_digest(status: DeviceStatus) -> bytes:
    """What must differ for a status to be worth a batch of its own."""
    return codec.to_json(msgspec.structs.replace(status, spool_bytes=0, stale_s=0.0))
