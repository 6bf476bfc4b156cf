"""What a change of keys means: another root, other targets, and everything that has to be signed anew because of it.

Pure: metadata in, metadata out. A key of one role may sign metadata of several, which two others name: the online key's
id stands in root, for snapshot and timestamp, and in targets, for channels.
"""

from __future__ import annotations

import copy
import datetime as dt
import typing

from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, MetaFile, Role, Root, Targets

from cloud.publish.keys import SHORT
from cloud.publish.roles import DELEGATED, SIGNED_BY, Newest, above, is_signed, signed_by, trusted
from shared.errors import ConflictError, NotFoundError

Drafts = dict[str, Metadata[typing.Any]]
Expires = typing.Callable[[str], dt.datetime]


class Change(typing.NamedTuple):
    """What shall be different.

    Parameters
    ----------
    role : str
        Whose keys: root, targets, bundles or online.
    add : Key, optional
        The public half of a key that shall count.
    drop : str
        Id of a key that shall count no more.
    threshold : int
        How many keys have to sign; 0 leaves it as it is.
    """

    role: str
    add: Key | None = None
    drop: str = ""
    threshold: int = 0


def signs(role: str) -> list[str]:
    """Return the metadata that a role's keys sign."""
    return [name for name, key_role in SIGNED_BY.items() if key_role == role]


def key_role(newest: Newest, role: str) -> Role:
    """Return the keys of a role, and how many have to sign."""
    return trusted(newest, signs(role)[0])


def find_key(newest: Newest, role: str, text: str) -> str:
    """Return the id of a role's key that begins with a text; with none, of its only key.

    Raises
    ------
    NotFoundError, ConflictError
        No key does, or several do.
    """
    found = [keyid for keyid in key_role(newest, role).keyids if keyid.startswith(text)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(keyid[:SHORT] for keyid in key_role(newest, role).keyids)
    if not found:
        raise NotFoundError(f"no key of {role} begins with {text!r:.40}", fix=f"There are: {names}")
    raise ConflictError(f"{role} has several such keys", fix=f"Name one of: {names}")


def changed(newest: Newest, change: Change, expires: Expires) -> Drafts:
    """Return the root and the targets that the change asks for, not signed yet.

    Raises
    ------
    ConflictError
        The threshold could not be met; or the key counts already, for this role or another.
    """
    if change.add:
        _check_unused(newest, change.add.keyid)
    drafts: Drafts = {}
    for role in signs(change.role):
        naming = "targets" if role in DELEGATED else "root"
        meta = drafts.setdefault(naming, next_version(newest[naming], expires(naming)))
        _change_role(meta.signed, role, change)
    return drafts


def _change_role(signed: Root | Targets, role: str, change: Change) -> None:
    names = signed.get_delegated_role(role)
    n_keys = len(names.keyids) + bool(change.add) - bool(change.drop)
    threshold = change.threshold or names.threshold
    if threshold > n_keys:
        raise ConflictError(
            f"of the {n_keys} keys that {role} would have {threshold} would have to sign",
            fix="Add a key first, or lower the threshold.",
        )
    if change.drop:
        signed.revoke_key(change.drop, role)
    if change.add:
        signed.add_key(change.add, role)
    names.threshold = threshold


def _check_unused(newest: Newest, keyid: str) -> None:
    for role in SIGNED_BY:
        if keyid in trusted(newest, role).keyids:
            raise ConflictError(f"{keyid[:SHORT]} is a key of {SIGNED_BY[role]} already", fix="Take another key.")


def renewed(newest: Newest, role: str, expires: Expires) -> Drafts:
    """Return a role's metadata as it is, good for longer, not signed yet."""
    return {role: next_version(newest[role], expires(role))}


def next_version(meta: Metadata[typing.Any], expires: dt.datetime) -> Metadata[typing.Any]:
    """Return the next version of metadata, not signed yet."""
    following: Metadata[typing.Any] = Metadata(copy.deepcopy(meta.signed))
    following.signed.version += 1
    following.signed.expires = expires
    return following


def follow(newest: Newest, drafts: Newest, expires: Expires) -> Drafts:
    """Return the drafts, and what has to be signed anew because of them, not signed yet.

    Parameters
    ----------
    drafts : mapping
        Role to its next metadata.
    """
    found = dict(drafts)
    for role in ("targets", *DELEGATED):
        if role not in found and not is_signed({**newest, **found}, role):
            found[role] = next_version(newest[role], expires(role))
    named = [role for role in ("targets", *DELEGATED) if role in found]
    if named or not all(is_signed({**newest, **found}, role) for role in ("snapshot", "timestamp")):
        snapshot = next_version(newest["snapshot"], expires("snapshot"))
        for role in named:
            snapshot.signed.meta[f"{role}.json"] = MetaFile(found[role].signed.version)
        timestamp = next_version(newest["timestamp"], expires("timestamp"))
        timestamp.signed.snapshot_meta = MetaFile(snapshot.signed.version)
        found |= {"snapshot": snapshot, "timestamp": timestamp}
    return found


def may_sign(newest: Newest, drafts: Newest, role: str) -> set[str]:
    """Return the ids of the keys whose signature a draft wants: those that count before the change, and after it."""
    after = {**newest, **drafts}
    return set(trusted(newest, role).keyids) | set(trusted(after, role).keyids)


def lacking(newest: Newest, drafts: Newest, role: str) -> int:
    """Return how many signatures a draft lacks. Only a root has to convince those who trust the one before it."""
    meta = drafts[role]
    sources = [above({**newest, **drafts}, role)]
    if role == "root":
        sources.append(above(newest, role))
    return max(max(0, source.get_delegated_role(role).threshold - signed_by(source, role, meta)) for source in sources)


def in_order(newest: Newest, drafts: Drafts) -> list[tuple[str, Metadata[typing.Any]]]:
    """Return drafts in the order in which clients may see them.

    What both the old root and the new one accept goes first, and the root last: whoever reads in between sees nothing
    wrong. Where a key was lost, nobody who trusts the old root can be convinced, and the root goes first.
    """
    rest: list[tuple[str, Metadata[typing.Any]]] = [
        (role, drafts[role]) for role in ("bundles", "channels", "targets", "snapshot", "timestamp") if role in drafts
    ]
    if "root" not in drafts:
        return rest
    before = {**drafts, "root": newest["root"]}
    seen = all(is_signed({**newest, **before}, role) for role, _ in rest)
    root = ("root", drafts["root"])
    return [*rest, root] if seen else [root, *rest]


def differences(newest: Newest, drafts: Newest) -> list[str]:
    """Say for people which keys count after a change and did not before, and the other way round."""
    after = {**newest, **drafts}
    lines = []
    for role in SIGNED_BY:
        old, new = trusted(newest, role), trusted(after, role)
        parts = [f"- {keyid[:SHORT]}" for keyid in old.keyids if keyid not in new.keyids]
        parts += [f"+ {keyid[:SHORT]}" for keyid in new.keyids if keyid not in old.keyids]
        if old.threshold != new.threshold or parts:
            lines.append(f"{role}: {', '.join(parts) or 'the same keys'}, {new.threshold} of {len(new.keyids)} sign")
    return lines


def counting(drafts: Newest) -> list[str]:
    """Say for people which keys count once drafts of root and targets are published, whatever was before."""
    names = [role for role in SIGNED_BY if ("targets" if role in DELEGATED else "root") in drafts]
    return [
        f"{role}: {found.threshold} of {', '.join(keyid[:SHORT] for keyid in found.keyids)}"
        for role in names
        for found in [trusted(drafts, role)]
    ]
