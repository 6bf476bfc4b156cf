"""The TUF repository that devices read: static files, signed role by role (TUF specification 1.0.34, section 4).

============  ==================  =================================================
role          key                 says
============  ==================  =================================================
root          root, offline       which keys count
targets       targets, offline    who may sign bundles, who may sign channels
bundles       bundles             which bundles exist
channels      online              which signed bundle runs where
snapshot      online              which metadata belongs together
timestamp     online              that all this is fresh
============  ==================  =================================================

Files are written in the order in which clients need them, the timestamp last: whatever crashes in between, a client
sees the old state whole.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import pathlib
import typing

from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from cloud.publish import journal
from cloud.publish.keyring import Keyring
from cloud.publish.keys import load_signer
from cloud.publish.roles import DELEGATED, LIFETIME, SIGNED_BY, Newest, first_root, first_targets, trusted
from cloud.store.blobs import write_file
from shared.errors import ConflictError, NotFoundError

S = typing.TypeVar("S", Root, Targets, Snapshot, Timestamp)
_KEPT_VERSIONS = 20
_PRETTY = JSONSerializer(compact=True)


class SignedRepository:
    """The repository of a project.

    Parameters
    ----------
    folder, keys : Path
        Where it is, and where the keys are.
    lifetime : mapping, optional
        Role to how long its metadata is good for; the usual ones by default.
    """

    def __init__(
        self, folder: pathlib.Path, keys: pathlib.Path, lifetime: typing.Mapping[str, dt.timedelta] = LIFETIME
    ) -> None:
        self.folder, self.keyring, self._lifetime = folder, Keyring(keys), dict(LIFETIME) | dict(lifetime)
        self._metadata = folder / "metadata"
        self._targets = folder / "targets"
        self._blobs = folder / "blobs"
        self._journal = folder.parent / "repo.journal"

    # ---- reading

    @property
    def exists(self) -> bool:
        """Whether the repository was made."""
        return (self._metadata / "timestamp.json").exists()

    def root_bytes(self) -> bytes:
        """Return the first root metadata: what a device trusts when it joins."""
        try:
            return (self._metadata / "1.root.json").read_bytes()
        except FileNotFoundError as err:
            raise NotFoundError("this project has no repository yet", fix="Make it: covey init") from err

    def blob_path(self, sha256: str) -> pathlib.Path:
        """Where a bundle's file is served from."""
        return self._blobs / sha256[:2] / sha256

    def versions(self) -> dict[str, int]:
        """Role to the version of its newest metadata."""
        timestamp = self._load("timestamp", Timestamp)
        snapshot = self._load("snapshot", Snapshot, timestamp.signed.snapshot_meta.version)
        versions = {name.removesuffix(".json"): meta.version for name, meta in snapshot.signed.meta.items()}
        return versions | {
            "timestamp": timestamp.signed.version,
            "snapshot": snapshot.signed.version,
            "root": self._newest_root(),
        }

    def _newest_root(self) -> int:
        return max(int(path.name.split(".")[0]) for path in self._metadata.glob("*.root.json"))

    def _load(self, role: str, _kind: type[S], version: int | None = None) -> Metadata[S]:
        name = f"{role}.json" if version is None else f"{version}.{role}.json"
        return Metadata[S].from_bytes((self._metadata / name).read_bytes())

    def target(self, role: str, path: str) -> bytes:
        """Read a signed target."""
        meta = self._load(role, Targets, self.versions()[role])
        info = meta.signed.targets.get(path)
        if info is None:
            raise NotFoundError(f"nothing signed at {path}")
        return self._target_path(path, info.hashes["sha256"]).read_bytes()

    def _target_path(self, path: str, sha256: str) -> pathlib.Path:
        folder, _, name = path.rpartition("/")
        return self._targets / folder / f"{sha256}.{name}"

    # ---- writing

    @contextlib.contextmanager
    def locked(self) -> typing.Iterator[None]:
        """Let nobody else write meanwhile, and finish what was cut off."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder.parent / "repo.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            journal.finish(self._journal, self._metadata)
            yield

    def write_together(self, signed: typing.Sequence[tuple[str, Metadata[typing.Any]]]) -> None:
        """Put signed metadata where devices fetch it, in this order: all of it, or, after a crash, all or none."""
        files = [(_name(role, meta), meta.to_bytes(_PRETTY)) for role, meta in signed]
        journal.write_together(self._journal, self._metadata, files)

    def create(self) -> None:
        """Make an empty repository.

        Raises
        ------
        ConflictError
            There is one.
        """
        with self.locked():
            if self.exists:
                raise ConflictError(f"{self.folder} is a repository already")
            signers = {role: load_signer(self.keyring.folder, SIGNED_BY[role]) for role in SIGNED_BY}
            keys = {role: signer.public_key for role, signer in signers.items()}
            names = ("targets.json", "bundles.json", "channels.json")
            first: dict[str, Metadata[typing.Any]] = {
                "root": Metadata(first_root(keys, self.expires("root"))),
                "targets": Metadata(first_targets(keys, self.expires("targets"))),
                "bundles": Metadata(Targets(version=1, expires=self.expires("bundles"))),
                "channels": Metadata(Targets(version=1, expires=self.expires("channels"))),
                "snapshot": Metadata(
                    Snapshot(1, None, self.expires("snapshot"), dict.fromkeys(names, MetaFile(1))),
                ),
                "timestamp": Metadata(Timestamp(1, None, self.expires("timestamp"), MetaFile(1))),
            }
            for role, meta in first.items():
                meta.sign(signers[role])
                self._put(role, meta)

    def add_blob(self, data: bytes, sha256: str) -> None:
        """Put a bundle's file where devices fetch it."""
        path = self.blob_path(sha256)
        if not path.exists():
            write_file(path, data)

    def publish(self, role: typing.Literal["bundles", "channels"], files: typing.Mapping[str, bytes]) -> None:
        """Sign targets: all of them, or, after a crash, none.

        Parameters
        ----------
        files : mapping
            Target path to content.
        """
        if not files:
            return
        with self.locked():
            meta = self._load(role, Targets, self.versions()[role])
            for path, data in files.items():
                info = TargetFile.from_data(path, data, ["sha256"])
                write_file(self._target_path(path, info.hashes["sha256"]), data)
                meta.signed.targets[path] = info
            self._bump(role, meta)
            self._seal({role: meta.signed.version})
            self._prune(role)

    def refresh(self, now: dt.datetime | None = None) -> list[str]:
        """Sign anew what has lived half its time and whose key is here; return the roles."""
        moment = now or dt.datetime.now(dt.UTC)
        with self.locked():
            versions = self.versions()
            renewed = ["root"] if self._renew("root", Root, versions["root"], moment) else []
            delegated = [
                role
                for role in ("targets", "bundles", "channels")
                if self._renew(role, Targets, versions[role], moment)
            ]
            snapshot = self._load("snapshot", Snapshot, versions["snapshot"])
            if delegated or self._is_old(snapshot.signed.expires, "snapshot", moment):
                self._seal({role: versions[role] + 1 for role in delegated})
                return [*renewed, *delegated, "snapshot", "timestamp"]
            if self._renew("timestamp", Timestamp, None, moment):
                renewed.append("timestamp")
        return renewed

    def move_on(self, least: int) -> None:
        """Sign anew under versions above `least`: devices that have seen more than this copy take it again."""
        with self.locked():
            newest, roles = self.newest(), [role for role in ("targets", *DELEGATED) if self._has_keys(role)]
            for role in roles:
                self._bump(role, newest[role], least)
            self._seal({role: newest[role].signed.version for role in roles}, least)

    def _renew(self, role: str, kind: type[S], version: int | None, now: dt.datetime) -> bool:
        """Sign a role anew if it is old; not if its key is kept elsewhere."""
        meta = self._load(role, kind, version)
        if not self._is_old(meta.signed.expires, role, now) or not self._has_keys(role):
            return False
        self._bump(role, meta)
        return True

    def _has_keys(self, role: str) -> bool:
        names = trusted(self._naming(role), role)
        return len(self.keyring.openable(SIGNED_BY[role], names.keyids)) >= names.threshold

    def newest(self) -> dict[str, Metadata[typing.Any]]:
        """Role to its newest metadata."""
        versions = self.versions()
        return {
            "root": self._load("root", Root, versions["root"]),
            "targets": self._load("targets", Targets, versions["targets"]),
            "bundles": self._load("bundles", Targets, versions["bundles"]),
            "channels": self._load("channels", Targets, versions["channels"]),
            "snapshot": self._load("snapshot", Snapshot, versions["snapshot"]),
            "timestamp": self._load("timestamp", Timestamp),
        }

    def expiries(self) -> dict[str, dt.datetime]:
        """Role to the moment from which devices refuse its newest metadata."""
        return {role: meta.signed.expires for role, meta in self.newest().items()}

    def overdue(self, now: dt.datetime | None = None) -> dict[str, dt.datetime]:
        """Roles that should have been signed anew, and when they expire."""
        moment = now or dt.datetime.now(dt.UTC)
        return {role: at for role, at in self.expiries().items() if at - moment < self._lifetime[role] / 4}

    def _is_old(self, expires: dt.datetime, role: str, now: dt.datetime) -> bool:
        return expires - now < self._lifetime[role] / 2

    def expires(self, role: str) -> dt.datetime:
        """Until when metadata that is signed now is good."""
        return (dt.datetime.now(dt.UTC) + self._lifetime[role]).replace(microsecond=0)

    def _bump(self, role: str, meta: Metadata[S], least: int = 0) -> None:
        meta.signed.version = max(meta.signed.version, least) + 1
        meta.signed.expires = self.expires(role)
        self._write(role, meta)

    def _seal(self, changed: typing.Mapping[str, int], least: int = 0) -> None:
        """Write a snapshot that names the changed roles, then the timestamp that names the snapshot."""
        timestamp = self._load("timestamp", Timestamp)
        snapshot = self._load("snapshot", Snapshot, timestamp.signed.snapshot_meta.version)
        for role, version in changed.items():
            snapshot.signed.meta[f"{role}.json"] = MetaFile(version)
        self._bump("snapshot", snapshot, least)
        timestamp.signed.snapshot_meta = MetaFile(snapshot.signed.version)
        self._bump("timestamp", timestamp, least)
        self._prune("snapshot")

    def _write(self, role: str, meta: Metadata[S]) -> None:
        """Sign with the keys that the newest metadata trusts, all that are here, and put it where devices fetch it."""
        names = trusted(self._naming(role), role)
        meta.signatures.clear()
        for signer in self.keyring.signers(SIGNED_BY[role], names.keyids, names.threshold):
            meta.sign(signer, append=True)
        self._put(role, meta)

    def sign(self, role: str, message: bytes) -> str:
        """Sign something else with a key that may sign a role today; return the signature, hex."""
        names = trusted(self._naming(role), role)
        return self.keyring.signers(SIGNED_BY[role], names.keyids, 1)[0].sign(message).signature

    def _put(self, role: str, meta: Metadata[S]) -> None:
        write_file(self._metadata / _name(role, meta), meta.to_bytes(_PRETTY))

    def _naming(self, role: str) -> Newest:
        """Return the newest root, and the newest targets for a role that they delegate to."""
        newest: dict[str, Metadata[typing.Any]] = {"root": self._load("root", Root, self._newest_root())}
        if role in DELEGATED:
            newest["targets"] = self._load("targets", Targets, self.versions()["targets"])
        return newest

    def _prune(self, role: str) -> None:
        """Delete metadata that no client can be in the middle of reading any more, and channels it named."""
        paths = sorted(self._metadata.glob(f"*.{role}.json"), key=lambda path: int(path.name.split(".")[0]))
        for path in paths[:-_KEPT_VERSIONS]:
            path.unlink(missing_ok=True)
        if role != "channels":
            return
        kept = [Metadata[Targets].from_bytes(path.read_bytes()).signed.targets for path in paths[-_KEPT_VERSIONS:]]
        named = {self._target_path(path, info.hashes["sha256"]) for targets in kept for path, info in targets.items()}
        for file in (self._targets / "channels").iterdir():
            if file not in named:
                file.unlink(missing_ok=True)


def _name(role: str, meta: Metadata[S]) -> str:
    return "timestamp.json" if role == "timestamp" else f"{meta.signed.version}.{role}.json"
