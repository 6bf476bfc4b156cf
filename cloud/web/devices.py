"""What devices ask for: join, nonce, token, deliver."""

from __future__ import annotations

import flask

from cloud.store.ingest import ingest
from cloud.web.context import context
from shared import codec, protocol
from shared.errors import AuthError, ForbiddenError, LimitError, WireError
from shared.telemetry import MAX_BATCH_BYTES, MAX_BATCH_RAW_BYTES, Acknowledgement, Batch

blueprint = flask.Blueprint("devices", __name__)
_ACCEPTED = "accepted"


def _json(record: codec.Record) -> flask.Response:
    return flask.Response(codec.to_json(record), content_type="application/json")


def _body(limit_bytes: int) -> bytes:
    length = flask.request.content_length
    if length is not None and length > limit_bytes:
        raise TooLargeError(f"{length:,} bytes, at most {limit_bytes:,} are read", field="body")
    return flask.request.get_data(cache=False)


class TooLargeError(LimitError):
    """The request is larger than this server reads."""

    code = "too-large"
    http_status = 413
    retry = False


@blueprint.post(protocol.JOIN_PATH)
def join() -> flask.Response:
    """Take a device in."""
    here = context()
    request = codec.from_json(_body(protocol.MAX_JSON_BYTES), protocol.JoinRequest)
    row = here.store.fleet.join(request.device, request.public_key, request.token_id, request.secret)
    root = (here.project.repository / "metadata" / "1.root.json").read_text()
    return _json(protocol.JoinReply(device=row["device"], region=row["region"], root=root))


@blueprint.post(protocol.NONCE_PATH.format(device="<device>"))
def nonce(device: str) -> flask.Response:
    """Return a number to sign; for unknown devices too, so that nobody learns which names exist."""
    return _json(protocol.NonceReply(nonce=context().sessions.new_nonce(device)))


@blueprint.post(protocol.SIGN_IN_PATH.format(device="<device>"))
def token(device: str) -> flask.Response:
    """Sign a device in."""
    here = context()
    request = codec.from_json(_body(protocol.MAX_JSON_BYTES), protocol.SignInRequest)
    row = here.store.db.row("select public_key, status from devices where device = ?", (device,))
    if row is None:
        raise AuthError("the signature is not the device's", field="signature")
    if row["status"] != _ACCEPTED:
        raise ForbiddenError(f"{device!r} was retired", field="device")
    return _json(here.sessions.sign_in(device, row["public_key"], request))


@blueprint.post(protocol.TELEMETRY_PATH)
def telemetry() -> flask.Response:
    """Take a batch in; the reply means that it is in the database."""
    here = context()
    scheme, _, bearer = flask.request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not bearer:
        raise AuthError("there is no token", field="Authorization", fix="Sign in, and send: Bearer TOKEN")
    device = here.sessions.device_of(bearer)
    if flask.request.mimetype != protocol.TELEMETRY_TYPE:
        raise WireError(f"{flask.request.mimetype!r:.60}", field="Content-Type", fix=f"Send {protocol.TELEMETRY_TYPE}.")
    raw = codec.decompress(_body(MAX_BATCH_BYTES), limit_bytes=MAX_BATCH_RAW_BYTES)
    batch = codec.from_msgpack(raw, Batch, limit_bytes=MAX_BATCH_RAW_BYTES)
    if batch.device != device:
        raise ForbiddenError(f"{device!r} delivers for {batch.device!r}", field="device")
    fresh = ingest(here.store.db, batch, here.project.settings.serve.online_window_s)
    return _json(Acknowledgement(spool=batch.spool, sequence=batch.sequence, duplicate=not fresh))
