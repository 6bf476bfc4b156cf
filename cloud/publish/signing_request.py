"""A file that asks for signatures: it travels to the machine that has the key, is signed there, and comes back.

Root, targets and bundles can be asked for; what the online key signs is signed where the repository is.
"""

from __future__ import annotations

import copy
import datetime as dt
import hashlib
import typing

from securesystemslib.exceptions import Error as SignerError
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets

from cloud.publish.changes import Drafts, counting, differences, lacking, may_sign
from cloud.publish.keys import SHORT
from cloud.publish.roles import DELEGATED, Newest, keys_of
from shared import codec
from shared.clock import format_time
from shared.errors import ConflictError, TrustError, UsageError, WireError

OFFLINE = ("root", "targets", "bundles")
LIMIT_BYTES = 16 << 20
_LONGEST = 400
Row = dict[str, typing.Any]
_KIND: dict[str, type[Root | Targets]] = {"root": Root, "targets": Targets, "bundles": Targets}


class _Record(codec.Record, frozen=True, kw_only=True):
    """A request as a file: metadata as TUF writes it."""

    SCHEMA: typing.ClassVar[str] = "covey.key-request/1"
    action: str
    reason: str
    made_utc: str
    newest: dict[str, Row]
    drafts: dict[str, Row]


class SigningRequest(typing.NamedTuple):
    """What is asked for.

    Parameters
    ----------
    action, reason, made_utc : str
        What is to be done, why, and since when it waits.
    newest : mapping
        Root and targets as they are, so that a signer sees what changes.
    drafts : mapping
        Role to the metadata that wants signatures, with those that it has.
    """

    action: str
    reason: str
    made_utc: str
    newest: Newest
    drafts: Drafts

    def to_bytes(self) -> bytes:
        """Write the request."""
        return codec.to_json(
            _Record(
                action=self.action,
                reason=self.reason,
                made_utc=self.made_utc,
                newest={role: self.newest[role].to_dict() for role in ("root", "targets")},
                drafts={role: self.drafts[role].to_dict() for role in OFFLINE if role in self.drafts},
            )
        )


def ask(action: str, reason: str, newest: Newest, drafts: Drafts, now_s: float) -> bytes:
    """Write a request for signatures under drafts."""
    return SigningRequest(action, reason, format_time(now_s), newest, drafts).to_bytes()


def read(data: bytes) -> SigningRequest:
    """Read a request.

    Raises
    ------
    WireError
        It is garbage, truncated, or asks for something that nobody signs like this.
    """
    record = codec.from_json(data, _Record, limit_bytes=LIMIT_BYTES)
    if set(record.newest) != {"root", "targets"} or not record.drafts or not set(record.drafts) <= set(OFFLINE):
        raise WireError("asks for other roles than root, targets and bundles", field="drafts")
    request = SigningRequest(
        record.action,
        record.reason,
        record.made_utc,
        {role: _metadata(f"newest.{role}", role, found) for role, found in record.newest.items()},
        {role: _metadata(f"drafts.{role}", role, found) for role, found in record.drafts.items()},
    )
    try:
        differences(request.newest, request.drafts)
        for role in request.drafts:
            may_sign(request.newest, request.drafts, role)
    except (ValueError, AttributeError) as err:
        raise WireError(f"names no keys for a role: {err}", field="drafts") from err
    return request


def _metadata(field: str, role: str, found: Row) -> Metadata[typing.Any]:
    try:
        meta: Metadata[typing.Any] = Metadata.from_dict(copy.deepcopy(found))
        if not isinstance(meta.signed, _KIND[role]):
            raise WireError(f"is metadata of {meta.signed.type}", field=field)
        if role == "targets" and set(_delegated(meta)) != set(DELEGATED):
            raise WireError("does not delegate to bundles and channels", field=field)
        _check_keys(field, meta.signed)
        _ = meta.signed_bytes  # what can not be written as canonical JSON can not be signed
    except (RepositoryError, SignerError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise WireError(f"no metadata: {err!s:.100}", field=field) from err
    return meta


def _check_keys(field: str, signed: Root | Targets) -> None:
    """Refuse keys under ids that are not theirs: people compare ids."""
    keys = keys_of(signed)
    for keyid, key in keys.items():
        own = encode_canonical({"keytype": key.keytype, "scheme": key.scheme, "keyval": key.keyval}) or ""
        if hashlib.sha256(own.encode()).hexdigest() != keyid:
            raise WireError(f"has a key under an id that is not its own: {keyid[:SHORT]!r}", field=field)
    names = signed.roles if isinstance(signed, Root) else (signed.delegations and signed.delegations.roles) or {}
    for role, found in names.items():
        if not found.keyids or not set(found.keyids) <= set(keys) or found.threshold > len(found.keyids):
            raise WireError(f"names keys of {role} that are not there", field=field)


def _delegated(meta: Metadata[typing.Any]) -> typing.Iterable[str]:
    delegations = meta.signed.delegations
    return (delegations and delegations.roles) or ()


def roles_for(request: SigningRequest, signer: CryptoSigner) -> list[str]:
    """Return what a key is asked to sign.

    Raises
    ------
    UsageError
        Nothing.
    """
    wanted = {role: may_sign(request.newest, request.drafts, role) for role in request.drafts}
    roles = [role for role in request.drafts if signer.public_key.keyid in wanted[role]]
    if not roles:
        raise UsageError(
            f"the key {signer.public_key.keyid[:SHORT]} is not asked to sign this",
            fix=f"Asked are: {', '.join(_shorts(set().union(*wanted.values())))}",
        )
    return roles


def add_signature(request: SigningRequest, signer: CryptoSigner) -> None:
    """Sign what a key is asked for; signing twice changes nothing."""
    for role in roles_for(request, signer):
        request.drafts[role].sign(signer, append=True)


def check(request: SigningRequest, newest: Newest, now: dt.datetime) -> None:
    """Refuse a request that does not continue the repository as it is now.

    Raises
    ------
    ConflictError, TrustError
        The repository has moved on; or the request changes more than keys, or has expired.
    """
    for role, meta in request.drafts.items():
        version, wanted = meta.signed.version, newest[role].signed.version + 1
        if version != wanted:
            raise ConflictError(
                f"asks for version {version}, and the next one is {wanted}", field=role, fix="Make the request anew."
            )
        if meta.signed.expires <= now:
            raise TrustError(f"has expired: {meta.signed.expires}", field=role, fix="Make the request anew.")
        if _but_keys(role, meta) != _but_keys(role, newest[role]):
            raise TrustError("changes more than keys", field=role, fix="Make the request anew.")


def _but_keys(role: str, meta: Metadata[typing.Any]) -> Row:
    """Return metadata without its keys, thresholds, version and expiry."""
    said: Row = meta.signed.to_dict()
    for name in ("version", "expires", "keys", "spec_version"):
        said.pop(name, None)
    if role == "root":
        said["roles"] = sorted(said["roles"])
    if role == "targets":
        said["delegations"] = [
            {key: value for key, value in one.items() if key not in {"keyids", "threshold"}}
            for one in said["delegations"]["roles"]
        ]
    return said


def describe(request: SigningRequest) -> list[str]:
    """Say for people what is asked for, which keys would count then, and who has signed."""
    head = f"{request.action}, asked for {request.made_utc}: {request.reason}"
    lines = ["".join(letter if letter.isprintable() else "?" for letter in head[:_LONGEST])]
    lines += [f"  change: {line}" for line in differences(request.newest, request.drafts) or ["none of keys"]]
    lines += [f"  then: {line}" for line in counting(request.drafts)]
    for role, meta in request.drafts.items():
        asked = may_sign(request.newest, request.drafts, role)
        signed = _shorts(asked & set(meta.signatures))
        lacks = lacking(request.newest, request.drafts, role)
        lines.append(
            f"  {role} {meta.signed.version}, good until {meta.signed.expires:%Y-%m-%d}: signed by "
            f"{', '.join(signed) or 'nobody'}"
            + (f", {lacks} more of {', '.join(_shorts(asked - set(meta.signatures)))}" if lacks else "")
        )
    return lines


def _shorts(keyids: typing.Iterable[str]) -> list[str]:
    return sorted(keyid[:SHORT] for keyid in keyids)
