"""What the device trusts: a TUF repository, read with python-tuf over the device's own line.

Follows the client workflow of the TUF specification 1.0.34, section 5; python-tuf decides, this module fetches,
keeps and names errors.
"""

from __future__ import annotations

import datetime as dt
import json
import pathlib
import time
import typing

from tuf.api import exceptions
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from edge_agent.update.floors import Floors, NoFloors, note_time, settle, signers
from edge_agent.update.mark import Mark, mark_of
from edge_agent.update.metadata_folder import forget, kept, mend, put_back
from shared.errors import NotFoundError, TrustError, UnreachableError

Stream = typing.Callable[[str], typing.Iterator[bytes]]
_TARGETS = "targets/"
_CONFIG = UpdaterConfig(
    max_root_rotations=256,
    timestamp_max_length=16 << 10,
    snapshot_max_length=2 << 20,
    targets_max_length=5 << 20,
    prefix_targets_with_hash=True,
)


class Where(typing.NamedTuple):
    """Addresses of the parts of a repository, each with a slash at its end."""

    metadata: str
    targets: str
    blobs: str = ""

    @classmethod
    def below(cls, url: str) -> Where:
        """Return the parts of a repository that has them all below one address."""
        base = url.rstrip("/")
        return cls(f"{base}/metadata/", f"{base}/{_TARGETS}", f"{base}/blobs/")


class _Fetcher(FetcherInterface):
    """Fetches over the device's line; `last` is what was asked for last, below the repository's address."""

    def __init__(self, stream: Stream, where: Where) -> None:
        self._stream, self._where = stream, where
        self.last = "metadata"
        self.ahead: dict[str, bytes | None] = {}

    def look(self, name: str, limit_bytes: int) -> bytes | None:
        """Fetch metadata, None if there is none, and have it ready for who fetches it next."""
        url = self._where.metadata + name
        try:
            found: bytes | None = self.download_bytes(url, limit_bytes)
        except exceptions.DownloadHTTPError:
            found = None
        self.ahead[url] = found
        return found

    def _fetch(self, url: str) -> typing.Iterator[bytes]:
        if url.startswith(self._where.targets):
            self.last = _TARGETS + url.removeprefix(self._where.targets)
        else:
            self.last = "metadata/" + url.removeprefix(self._where.metadata)
        try:
            if url not in self.ahead:
                yield from self._stream(url)
                return
            data = self.ahead.pop(url)
            if data is None:
                raise NotFoundError(f"{url} is not there")
            yield data
        except NotFoundError as err:
            raise exceptions.DownloadHTTPError(str(err), 404) from err
        except UnreachableError as err:
            raise exceptions.DownloadError(str(err)) from err


class Repository:
    """The signed repository as this device sees it.

    Parameters
    ----------
    folder : Path
        Where trusted metadata is kept.
    root : bytes or None
        The first root metadata, trusted since the device joined; None to trust the one in the folder.
    where : Where
        Where the repository is served.
    stream : callable
        Fetches a URL in pieces.
    floors : Floors
        What was seen before, should the folder get lost.

    Attributes
    ----------
    edition : int
        Another one after each refresh.
    """

    def __init__(
        self, folder: pathlib.Path, root: bytes | None, where: Where, stream: Stream, floors: Floors | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._root, self._where = folder, root, where
        self._floors = floors or NoFloors()
        self._fetcher = _Fetcher(stream, where)
        self._updater: Updater | None = None
        self._mark: Mark | None = None
        self.edition = 0

    def mark(self) -> None:
        """Remember what is trusted now, for `is_as_marked`; everything that this device needs was read."""
        self._mark = None if self._updater is None else mark_of(self._folder)

    def is_as_marked(self) -> bool:
        """Ask whether a refresh would find what is trusted already, with no more than its two requests.

        Root and timestamp come first in the client workflow: where there is no next root (5.3.3) and the timestamp is
        the one that was verified, the workflow ends with what is there, as long as none of it has expired. If there is
        anything else, `refresh` decides what it is, and fetches neither a second time.

        Raises
        ------
        UnreachableError
            No network; what was trusted before still is.
        """
        mark, now_s = self._mark, time.time()
        self._fetcher.ahead.clear()  # what an earlier look had ready may be old by now
        if mark is None or not mark.stands(self._folder, max(now_s, float(self._floors.floor("time")))):
            return False
        with _named(self._fetcher):
            if self._fetcher.look(f"{mark.root + 1}.root.json", _CONFIG.root_max_length) is not None:
                return False
            if self._fetcher.look("timestamp.json", _CONFIG.timestamp_max_length) != mark.timestamp:
                return False
        note_time(self._floors, now_s)
        return True

    def refresh(self) -> None:
        """Bring trusted metadata up to date.

        Raises
        ------
        UnreachableError
            No network; what was trusted before still is.
        TrustError
            The repository shows something that is unsigned, expired, or older than what was seen before.
        """
        self._mark = self._updater = None
        now_s = time.time()  # one time for the whole of an update (5.1)
        mend(self._folder)
        before = kept(self._folder)
        try:
            with _named(self._fetcher):
                updater = self._load()
        finally:
            self._fetcher.ahead.clear()
        try:
            _check_keys(self._folder)
            settle(self._folder, self._floors, now_s)
        except TrustError:
            put_back(self._folder, before)
            raise
        self._updater = updater
        self.edition += 1

    def _load(self) -> Updater:
        """Refresh; once a key of timestamp or snapshot was replaced, what they had signed counts no more (5.3.11)."""
        before = signers(self._folder)
        try:
            return self._refreshed()
        except (exceptions.RepositoryError, exceptions.DownloadError):
            if before <= signers(self._folder):
                raise
        forget(self._folder)
        return self._refreshed()

    def _refreshed(self) -> Updater:
        updater = Updater(
            str(self._folder),
            self._where.metadata,
            target_base_url=self._where.targets,
            fetcher=self._fetcher,
            config=_CONFIG,
            bootstrap=self._root,
        )
        updater.refresh()
        return updater

    def target(self, path: str, *, cache: pathlib.Path) -> bytes:
        """Return a signed target; a cached copy is used if its hash is the signed one.

        Parameters
        ----------
        cache : Path
            Where the target is kept.

        Raises
        ------
        NotFoundError
            No role signs such a target.
        """
        if self._updater is None:
            raise TrustError("the repository was not refreshed", field=path)
        with _named(self._fetcher, path):
            info = self._updater.get_targetinfo(path)
            if info is None:
                raise NotFoundError("nobody signs this", field=path)
            cache.parent.mkdir(parents=True, exist_ok=True)
            found = self._updater.find_cached_target(info, str(cache))
            if found is None:
                self._updater.download_target(info, str(cache))
        return cache.read_bytes()

    def blob_url(self, sha256: str) -> str:
        """Where a blob is served."""
        return f"{self._where.blobs}{sha256[:2]}/{sha256}"

    def stale_s(self) -> float:
        """How long the newest trusted timestamp has been expired; 0 while it is fresh.

        Where that timestamp was lost, it is how long ago the last refresh went well, which is no less; 0 if none ever
        did.
        """
        now_s, refreshed_s = time.time(), float(self._floors.floor("time"))
        try:
            signed = json.loads((self._folder / "timestamp.json").read_bytes())["signed"]
            expires_s = dt.datetime.fromisoformat(signed["expires"]).timestamp()
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return max(0.0, now_s - refreshed_s) if refreshed_s else 0.0
        return max(0.0, max(now_s, refreshed_s) - expires_s)


def _check_keys(folder: pathlib.Path) -> None:
    """Refuse one key under two names where several keys have to sign: python-tuf counts names."""
    root, targets = (json.loads((folder / f"{role}.json").read_bytes())["signed"] for role in ("root", "targets"))
    below = targets.get("delegations", {})
    for keys, roles in ((root["keys"], root["roles"].values()), (below.get("keys", {}), below.get("roles", []))):
        for role in roles:
            values = [json.dumps(keys[keyid]["keyval"], sort_keys=True) for keyid in role["keyids"] if keyid in keys]
            if role["threshold"] > 1 and len(set(values)) < len(values):
                raise TrustError("not to be trusted: one key has two names", field=role.get("name", "root.json"))


class _named:  # noqa: N801 - reads as a verb where it is used
    """Turn python-tuf's exceptions into ours; they name what was fetched last, a target by its own path."""

    def __init__(self, fetcher: _Fetcher, target: str = "") -> None:
        self._fetcher, self._target = fetcher, target

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, _kind: object, err: BaseException | None, _trace: object) -> None:
        """Name the error by whose fault it is."""
        what = self._target if self._fetcher.last.startswith(_TARGETS) else self._fetcher.last
        if isinstance(err, exceptions.DownloadLengthMismatchError):
            raise TrustError(f"more data than signed: {err}", field=what) from err
        if isinstance(err, exceptions.DownloadError):
            raise UnreachableError(f"the repository can not be reached: {err}") from err
        if isinstance(err, exceptions.ExpiredMetadataError):
            raise TrustError(f"expired: {err}", field="metadata", fix="The cloud must sign anew.") from err
        if isinstance(err, exceptions.BadVersionNumberError):
            raise TrustError(f"older than what was seen before: {err}", field=what) from err
        if isinstance(err, exceptions.RepositoryError):
            raise TrustError(f"not to be trusted: {err}", field=what) from err
