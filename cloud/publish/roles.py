"""The roles of the repository, who signs them, for how long, and which of them names whose keys."""

from __future__ import annotations

import datetime as dt
import typing

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Role, Root, Targets

_DAY = dt.timedelta(days=1)
LIFETIME = {
    "root": 365 * _DAY,
    "targets": 365 * _DAY,
    "bundles": 365 * _DAY,
    "channels": 30 * _DAY,
    "snapshot": 30 * _DAY,
    "timestamp": 7 * _DAY,
}
SIGNED_BY = {
    "root": "root",
    "targets": "targets",
    "bundles": "bundles",
    "channels": "online",
    "snapshot": "online",
    "timestamp": "online",
}
DELEGATED = {"bundles": "bundles/*/*/*.json", "channels": "channels/*.json"}
Newest = typing.Mapping[str, Metadata[typing.Any]]


def first_root(keys: typing.Mapping[str, Key], expires: dt.datetime) -> Root:
    """Return the root of a new repository; `keys` has one for each role."""
    root = Root(version=1, expires=expires, consistent_snapshot=True)
    for role in root.roles:
        root.add_key(keys[role], role)
    return root


def first_targets(keys: typing.Mapping[str, Key], expires: dt.datetime) -> Targets:
    """Return the targets of a new repository, which say who may sign bundles and channels."""
    roles = {
        role: DelegatedRole(role, [], threshold=1, terminating=True, paths=[pattern])
        for role, pattern in DELEGATED.items()
    }
    targets = Targets(version=1, expires=expires, delegations=Delegations(keys={}, roles=roles))
    for role in DELEGATED:
        targets.add_key(keys[role], role)
    return targets


def above(newest: Newest, role: str) -> Root | Targets:
    """Return what names a role's keys."""
    signed: Root | Targets = newest["targets" if role in DELEGATED else "root"].signed
    return signed


def trusted(newest: Newest, role: str) -> Role:
    """Return which keys may sign a role, and how many have to."""
    return above(newest, role).get_delegated_role(role)


def signed_by(naming: Root | Targets, role: str, meta: Metadata[typing.Any]) -> int:
    """Count the keys that may sign a role, and that have signed this metadata."""
    payload, n = meta.signed_bytes, 0
    keys = keys_of(naming)
    for keyid in set(naming.get_delegated_role(role).keyids) & set(meta.signatures) & set(keys):
        try:
            keys[keyid].verify_signature(meta.signatures[keyid], payload)
        except UnverifiedSignatureError:
            continue
        n += 1
    return n


def keys_of(naming: Root | Targets) -> dict[str, Key]:
    """Return the keys that root or targets hold, by id."""
    if isinstance(naming, Root):
        return naming.keys
    return naming.delegations.keys if naming.delegations else {}


def is_signed(newest: Newest, role: str) -> bool:
    """Tell whether enough of the right keys have signed a role's metadata."""
    return signed_by(above(newest, role), role, newest[role]) >= trusted(newest, role).threshold
