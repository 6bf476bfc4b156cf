"""Carry out a change of keys: sign everything anew that it concerns, or write down which signatures are lacking."""

from __future__ import annotations

import datetime as dt
import pathlib
import time
import typing

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Targets

from cloud.publish import signing_request
from cloud.publish.changes import (
    Change,
    Drafts,
    changed,
    differences,
    follow,
    in_order,
    lacking,
    may_sign,
    renewed,
)
from cloud.publish.keyring import KeyFile, Keyring
from cloud.publish.repository import SignedRepository
from cloud.publish.roles import SIGNED_BY, Newest, trusted
from cloud.publish.signing_request import OFFLINE
from shared.errors import ConflictError, NotFoundError

Note = typing.Callable[[], None]


class Plan(typing.NamedTuple):
    """What a change would do.

    Parameters
    ----------
    keys : list of str
        Which keys would count, and which no more.
    roles : list of str
        What would be signed anew, in the order in which it would be written.
    lacking : mapping
        Role to the number of signatures that have to come from elsewhere.
    """

    keys: list[str]
    roles: list[str]
    lacking: dict[str, int]


class Done(typing.NamedTuple):
    """What came of it: done, or a request for what is lacking."""

    plan: Plan
    request: bytes = b""


def change_keys(repository: SignedRepository, change: Change, *, reason: str, action: str, note: Note) -> Done:
    """Change keys, and sign anew what the change concerns.

    Parameters
    ----------
    reason, action : str
        Why, and what it is called: for a request.
    note : callable
        Called when all is signed, before anything is published: for the log.

    Raises
    ------
    ConflictError, ConfigError, NotFoundError
        The change can not be; a key stays locked; the online key is not here.
    """
    with repository.locked():
        newest = repository.newest()
        given = changed(newest, change, repository.expires)
        return _settle(repository, newest, given, action=action, reason=reason, note=note)


def renew(repository: SignedRepository, role: str, *, reason: str, action: str, note: Note) -> Done:
    """Sign a role's metadata anew though its keys stay: before it expires."""
    with repository.locked():
        newest = repository.newest()
        given = renewed(newest, role, repository.expires)
        return _settle(repository, newest, given, action=action, reason=reason, note=note)


def _settle(
    repository: SignedRepository, newest: Newest, given: Drafts, *, action: str, reason: str, note: Note
) -> Done:
    drafts = follow(newest, given, repository.expires)
    plan = _sign(repository.keyring, newest, drafts)
    if plan.lacking:
        # Bundles that can be signed here are signed later: they may have moved on when the request comes back.
        asked = {role: meta for role, meta in drafts.items() if role in plan.lacking or role in {"root", "targets"}}
        return Done(plan, signing_request.ask(action, reason, newest, asked, time.time()))
    note()
    repository.write_together(in_order(newest, drafts))
    return Done(plan)


def apply(repository: SignedRepository, request: signing_request.SigningRequest, *, note: Note) -> Plan:
    """Publish a request that has come back.

    Raises
    ------
    ConflictError
        Signatures are lacking, or the repository has moved on.
    TrustError
        The request changes more than keys, or has expired.
    """
    with repository.locked():
        newest = repository.newest()
        drafts, plan = _completed(repository, newest, request)
        if plan.lacking:
            said = ", ".join(f"{role} lacks {n}" for role, n in plan.lacking.items())
            raise ConflictError(f"not signed yet: {said}", fix="Sign it: covey key sign REQUEST --key FILE")
        note()
        repository.write_together(in_order(newest, drafts))
    return plan


def preview(
    repository: SignedRepository,
    given: Change | str | signing_request.SigningRequest,
    extra: typing.Sequence[CryptoSigner] = (),
) -> Plan:
    """Say what a change, the renewal of a role or a request would do, and do nothing; raises what they raise.

    Parameters
    ----------
    extra : sequence of CryptoSigner
        Keys that are not in the folder yet.
    """
    newest = repository.newest()
    if isinstance(given, signing_request.SigningRequest):
        return _completed(repository, newest, given)[1]
    if isinstance(given, str):
        drafts = renewed(newest, given, repository.expires)
    else:
        drafts = changed(newest, given, repository.expires)
    return _sign(repository.keyring, newest, follow(newest, drafts, repository.expires), extra)


def _completed(
    repository: SignedRepository, newest: Newest, request: signing_request.SigningRequest
) -> tuple[Drafts, Plan]:
    signing_request.check(request, newest, dt.datetime.now(dt.UTC))
    for role, meta in request.drafts.items():
        wanted = may_sign(newest, request.drafts, role)
        for keyid in set(meta.signatures) - wanted:
            del meta.signatures[keyid]
    drafts = follow(newest, request.drafts, repository.expires)
    return drafts, _sign(repository.keyring, newest, drafts)


def _sign(keyring: Keyring, newest: Newest, drafts: Drafts, extra: typing.Sequence[CryptoSigner] = ()) -> Plan:
    """Sign drafts with every key that is here and that counts, before the change or after it."""
    for role, meta in drafts.items():
        wanted = may_sign(newest, drafts, role)
        more = [signer for signer in extra if signer.public_key.keyid in wanted]
        for signer in [*keyring.openable(SIGNED_BY[role], wanted), *more]:
            meta.sign(signer, append=True)
    away = {role: n for role in drafts if (n := lacking(newest, drafts, role))}
    for role in away:
        _refuse_unless_elsewhere(keyring, newest, drafts, role)
    order = [role for role, _ in in_order(newest, drafts)]
    return Plan(differences(newest, drafts), order, away)


def _refuse_unless_elsewhere(keyring: Keyring, newest: Newest, drafts: Drafts, role: str) -> None:
    """A key that is here and locked has to be opened; the online key has to be here; others may be elsewhere."""
    for names in ({**newest, **drafts}, newest) if role == "root" else ({**newest, **drafts},):
        keys = trusted(names, role)
        try:
            keyring.signers(SIGNED_BY[role], keys.keyids, keys.threshold)
        except NotFoundError:
            if role not in OFFLINE:
                raise


def fresh_keys(repository: SignedRepository, role: str) -> list[KeyFile]:
    """Return the private keys of a role that are here and have never counted."""
    known = once_trusted(repository.folder / "metadata")
    return [file for file in repository.keyring.files(role) if file.keyid and file.keyid not in known]


def once_trusted(metadata: pathlib.Path) -> set[str]:
    """Return the ids of all keys that a root or the targets have ever named."""
    keyids: set[str] = set()
    for path in metadata.glob("*.root.json"):
        keyids |= set(Metadata[Root].from_bytes(path.read_bytes()).signed.keys)
    for path in metadata.glob("*.targets.json"):
        delegations = Metadata[Targets].from_bytes(path.read_bytes()).signed.delegations
        keyids |= set(delegations.keys if delegations else ())
    return keyids
