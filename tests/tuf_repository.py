"""A TUF repository for tests, made and signed with python-tuf's metadata API.

Nothing is checked on this side: a test can sign with any key, name any version, leave out anything. What was signed
stays as it was signed until it is signed again.
"""

from __future__ import annotations

import datetime as dt
import typing
import urllib.parse

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

TOP = ("root", "timestamp", "snapshot", "targets")
DAY = dt.timedelta(days=1)
_COMPACT = JSONSerializer(compact=True)


class TufRepository:
    """A repository with one key for each role, every role at version 1.

    Attributes
    ----------
    signed : dict
        Role to the unsigned content of its newest metadata; tests change it.
    keys : dict
        Role to the keys that sign it.
    files : dict
        Path below the repository to what is served there.
    hashes : bool
        Whether timestamp and snapshot name lengths and hashes too.
    """

    def __init__(self, *, consistent: bool = True, hashes: bool = False) -> None:
        soon = (dt.datetime.now(dt.UTC) + 7 * DAY).replace(microsecond=0)
        self.hashes = hashes
        self.files: dict[str, bytes] = {}
        self.keys: dict[str, list[CryptoSigner]] = {}
        self.signed: dict[str, typing.Any] = {
            "root": Root(1, None, soon, consistent_snapshot=consistent),
            "timestamp": Timestamp(1, None, soon, MetaFile(1)),
            "snapshot": Snapshot(1, None, soon, {}),
            "targets": Targets(1, None, soon),
        }
        for role in TOP:
            self.give_key(role)
        self.sign("root")
        self.release("targets", bump=False)

    # ---- keys

    def give_key(self, role: str, parent: str = "root", signer: CryptoSigner | None = None) -> CryptoSigner:
        """Let one more key sign a role; the parent has to be signed after that."""
        made = signer or CryptoSigner.generate_ed25519()
        self.keys.setdefault(role, []).append(made)
        self.signed[parent].add_key(made.public_key, role)
        return made

    def rotate(self, *roles: str, parent: str = "root") -> None:
        """Replace the keys of roles by new ones; the parent has to be signed after that."""
        for role in roles:
            for signer in self.keys.pop(role):
                self.signed[parent].revoke_key(signer.public_key.keyid, role)
            self.give_key(role, parent)

    # ---- signing

    def path(self, role: str, version: int | None = None) -> str:
        """Where a role's metadata is served, not quoted."""
        prefix = f"{version or self.signed[role].version}."
        if role == "timestamp" or (role != "root" and not self.signed["root"].consistent_snapshot):
            prefix = ""
        return f"metadata/{prefix}{role}.json"

    def sign(self, role: str, keys: typing.Iterable[CryptoSigner] | None = None) -> bytes:
        """Sign a role's content as it is now and serve it."""
        meta: Metadata[Signed] = Metadata(self.signed[role])
        for key in self.keys[role] if keys is None else keys:
            meta.sign(key, append=True)
        self.files[self.path(role)] = meta.to_bytes(_COMPACT)
        return self.files[self.path(role)]

    def new_root(self, *more: CryptoSigner) -> None:
        """Sign the next root with its own keys, and with more."""
        self.signed["root"].version += 1
        self.sign("root", [*self.keys["root"], *more])

    def release(self, *roles: str, bump: bool = True) -> None:
        """Sign targets roles under their next version, then a snapshot that names them, then the timestamp."""
        for role in roles:
            self.signed[role].version += bump
            self.sign(role)
            self.signed["snapshot"].meta[f"{role}.json"] = self._named(role)
        self.signed["snapshot"].version += bump
        self.sign("snapshot")
        self.stamp(bump=bump)

    def stamp(self, *, bump: bool = True) -> None:
        """Sign a timestamp that names the snapshot."""
        self.signed["timestamp"].snapshot_meta = self._named("snapshot")
        self.signed["timestamp"].version += bump
        self.sign("timestamp")

    def _named(self, role: str) -> MetaFile:
        version, data = self.signed[role].version, self.files[self.path(role)]
        return MetaFile.from_data(version, data, ["sha256"]) if self.hashes else MetaFile(version)

    # ---- targets

    def delegate(
        self, parent: str, role: str, *paths: str, prefixes: list[str] | None = None, terminating: bool = False
    ) -> None:
        """Let a targets role say more of some paths; both have to be released."""
        above = self.signed[parent]
        above.delegations = above.delegations or Delegations(keys={}, roles={})
        below = DelegatedRole(role, [], 1, terminating, None if prefixes else list(paths), prefixes)
        above.delegations.roles[role] = below
        self.signed.setdefault(role, Targets(1, None, self.signed["targets"].expires))
        if role in self.keys:
            above.add_key(self.keys[role][0].public_key, role)
        else:
            self.give_key(role, parent)

    def delegate_bins(self, bit_length: int, prefix: str) -> list[str]:
        """Spread all targets over bins, all signed with one key; return their names."""
        key = CryptoSigner.generate_ed25519()
        bins = SuccinctRoles([key.public_key.keyid], 1, bit_length, prefix)
        self.signed["targets"].delegations = Delegations({key.public_key.keyid: key.public_key}, succinct_roles=bins)
        names = list(bins.get_roles())
        for name in names:
            self.signed[name], self.keys[name] = Targets(1, None, self.signed["targets"].expires), [key]
        return names

    def add_target(self, path: str, data: bytes, role: str = "targets") -> str:
        """Put a target into a role, to be released, and serve it; return the path where it is served."""
        info = TargetFile.from_data(path, data, ["sha256"])
        self.signed[role].targets[path] = info
        folder, slash, name = path.rpartition("/")
        prefix = f"{info.hashes['sha256']}." if self.signed["root"].consistent_snapshot else ""
        at = urllib.parse.unquote(f"targets/{folder}{slash}{prefix}{name}")
        self.files[at] = data
        return at
