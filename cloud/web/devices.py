"""What devices ask for: join, nonce, token, new key, deliver."""

from __future__ import annotations

import contextlib
import json
import typing

import flask
import flask.blueprints
import msgspec

from cloud import enrol
from cloud.store.fleet import SHARED_KEY
from cloud.store.ingest import ingest
from cloud.web.context import Context, context
from cloud.web.limits import Limits, TooFastError
from shared import codec, protocol
from shared.errors import AuthError, ConflictError, ForbiddenError, LimitError, WireError
from shared.telemetry import MAX_BATCH_BYTES, MAX_BATCH_RAW_BYTES, Acknowledgement, Batch

blueprint = flask.Blueprint("devices", __name__)
_OK, _WAITS = 200, 202
_LIMITS = "covey-limits"
_AGAIN = "Sign in again."


@blueprint.record
def _set_up(state: flask.blueprints.BlueprintSetupState) -> None:
    state.app.extensions[_LIMITS] = Limits(state.app.extensions["covey"]["project"].settings.serve)


def _limits() -> Limits:
    limits: Limits = flask.current_app.extensions[_LIMITS]
    return limits


@blueprint.before_request
def _not_too_fast() -> None:
    address, device = flask.request.remote_addr or "", (flask.request.view_args or {}).get("device")
    with _told_when():
        _limits().request(address)
        if device is not None:
            _limits().sign_in(address, device)


@contextlib.contextmanager
def _told_when() -> typing.Iterator[None]:
    """Let a refusal say when to come again."""
    try:
        yield
    except TooFastError as err:
        wait = str(err.wait_s)

        @flask.after_this_request
        def _add(response: flask.Response) -> flask.Response:
            response.headers["Retry-After"] = wait
            return response

        raise


def _json(record: codec.Record, status: int = _OK) -> flask.Response:
    return flask.Response(codec.to_json(record), status, content_type="application/json")


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
    """Take a device in, or let it wait for approval."""
    here = context()
    with _told_when():
        _limits().join(flask.request.remote_addr or "")
    request = codec.from_json(_body(protocol.MAX_JSON_BYTES), protocol.JoinRequest)
    fleet = here.store.fleet
    try:
        row = fleet.join(request.device, request.public_key, request.token_id, request.secret)
    except ConflictError:
        others = [name for name in fleet.with_key(request.public_key) if name != request.device]
        for other in others:
            fleet.note(other, SHARED_KEY, f"somebody asked to join as {request.device!r} with it")
        if not others:
            said = f"by a device with a good token and the key {request.public_key}"
            fleet.note(request.device, "name-asked-for", said)
        raise
    root = (here.project.repository / "metadata" / "1.root.json").read_text()
    known = {key: row[key] for key in ("device", "region", "status", "labels")}
    reply = protocol.JoinReply(root=root, **known)
    return _json(reply, _WAITS if reply.status == "pending" else _OK)


@blueprint.post(protocol.NONCE_PATH.format(device="<device>"))
def nonce(device: str) -> flask.Response:
    """Return a number to sign; for unknown devices too, so that nobody learns which names exist."""
    return _json(protocol.NonceReply(nonce=context().sessions.new_nonce(device)))


@blueprint.post(protocol.SIGN_IN_PATH.format(device="<device>"))
def token(device: str) -> flask.Response:
    """Sign a device in."""
    here = context()
    request = codec.from_json(_body(protocol.MAX_JSON_BYTES), protocol.SignInRequest)
    row = here.store.fleet.find(device)
    if row is None:
        raise AuthError("the signature is not the device's", field="signature")
    try:
        reply = here.sessions.sign_in(device, row["public_key"], request, enrol.mark_of(row))
    except AuthError:
        message = protocol.sign_in_message(device, request.nonce)
        if row["previous_key"] and enrol.is_signed(row["previous_key"], request.signature, message):
            here.store.fleet.note(device, SHARED_KEY, "somebody signs in with the key that was replaced")
        raise
    enrol.check_standing(row)
    return _json(msgspec.structs.replace(reply, rotate_key=bool(row["rotate"]), labels=json.loads(row["labels"])))


@blueprint.post(protocol.ROTATE_KEY_PATH.format(device="<device>"))
def rotate_key(device: str) -> flask.Response:
    """Accept a device's new key in place of its old one."""
    here = context()
    request = codec.from_json(_body(protocol.MAX_JSON_BYTES), protocol.RotateKeyRequest)
    return _json(protocol.RotateKeyReply(public_key=enrol.rotate_key(here.store, here.sessions, device, request)))


@blueprint.post(protocol.TELEMETRY_PATH)
def telemetry() -> flask.Response:
    """Take a batch in; the reply means that it is in the database."""
    here = context()
    device = _bearer(here)
    with _told_when():
        _limits().delivery(device)
    if flask.request.mimetype != protocol.TELEMETRY_TYPE:
        raise WireError(f"{flask.request.mimetype!r:.60}", field="Content-Type", fix=f"Send {protocol.TELEMETRY_TYPE}.")
    raw = codec.decompress(_body(MAX_BATCH_BYTES), limit_bytes=MAX_BATCH_RAW_BYTES)
    batch = codec.from_msgpack(raw, Batch, limit_bytes=MAX_BATCH_RAW_BYTES)
    if batch.device != device:
        raise ForbiddenError(f"{device!r} delivers for {batch.device!r}", field="device")
    fresh = _take_in(here, batch, raw)
    return _json(Acknowledgement(spool=batch.spool, sequence=batch.sequence, duplicate=not fresh))


def _bearer(here: Context) -> str:
    """Return who sends a request; a token given for a key that was replaced since is good no more."""
    scheme, _, bearer = flask.request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not bearer:
        raise AuthError("there is no token", field="Authorization", fix="Sign in, and send: Bearer TOKEN")
    device, mark = here.sessions.bearer_of(bearer)
    row = here.store.fleet.find(device)
    if row and row["status"] == "accepted" and mark != enrol.mark_of(row):
        said = "the token was given before a new key was made or asked for, or before the labels changed"
        raise AuthError(said, field="token", fix=_AGAIN)
    return device


def _take_in(here: Context, batch: Batch, raw: bytes) -> bool:
    """Take a batch in, and note when two devices deliver as one: nothing of either is dropped for it."""
    fleet = here.store.fleet
    left_for = fleet.spool_before(batch.device, batch.spool)
    try:
        fresh = ingest(here.store.db, batch, here.project.settings.serve.online_window_s, raw)
    except ConflictError:
        said = f"two different batches came as number {batch.sequence} of spool {batch.spool!r}"
        fleet.note(batch.device, SHARED_KEY, f"{said}; or its store was put back to an older state")
        raise
    if fresh and left_for:
        fleet.note(batch.device, SHARED_KEY, f"deliveries from the spools {left_for!r} and {batch.spool!r} take turns")
    return fresh
