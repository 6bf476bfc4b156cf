"""Where a device keeps its things, who it is, and its settings: default < edge.toml < COVEY_* environment < flag."""

from __future__ import annotations

import os
import pathlib
import re
import typing

import msgspec

from shared import codec, settings
from shared.errors import ConfigError, NotFoundError, UsageError
from shared.labels import check_labels

DEFAULT_STORE = "~/.local/share/covey-edge"
_LONGEST_S = 1e9  # no clock of this machine waits longer; infinity fails too
_TIME = r"([01]\d|2[0-3]):[0-5]\d"
Seconds = typing.Annotated[float, msgspec.Meta(gt=0, le=_LONGEST_S)]
SecondsOrNone = typing.Annotated[float, msgspec.Meta(ge=0, le=_LONGEST_S)]


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the device answers, and how much it takes on.

    Parameters
    ----------
    loop : str
        Event loop: ``uvloop``, ``asyncio``, or ``auto`` for uvloop where it is installed.
    names : tuple of str
        What a client may call this device, in the header Host, beside localhost and addresses of this machine alone;
        and whose pages may ask it, by the header Origin.
        Checked where it answers on such an address, or where there are names; any name will do elsewhere.
    socket, socket_mode : str
        Path of a Unix socket to answer on as well, and who may connect to it; none by default.
    max_body_bytes : int
        Larger requests are refused.
    max_connections : int
        Beyond that the connection that has been silent longest makes room for a new one.
    idle_timeout_s : float
        Who sends no whole request for so long, or takes nothing of a reply, is hung up on.
    max_waiting : int
        Requests that may wait for a model, or for their turn; further ones are told to come back later.
    max_held_bytes : int
        What large requests, and replies that nobody reads, may take up together.
    model_threads : int
        How many slow models run at a time; quick ones need no thread.
    model_timeout_s : float
        A slow model's run is stopped after so long; what comes next in the answer order answers then.
    memory_bytes : int
        What loaded models may take together; the one that was used longest ago makes room. 0 is no limit.
    stop_timeout_s : float
        When the agent stops, requests that are being answered have so long.
    """

    host: str = "127.0.0.1"
    port: typing.Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8765
    loop: typing.Literal["auto", "asyncio", "uvloop"] = "auto"
    names: tuple[str, ...] = ()
    socket: str = ""
    socket_mode: typing.Annotated[str, msgspec.Meta(pattern=r"^0?[0-7]{3}\Z")] = "0660"
    max_body_bytes: typing.Annotated[int, msgspec.Meta(ge=1024)] = 4 << 20
    max_connections: typing.Annotated[int, msgspec.Meta(ge=1)] = 1024
    idle_timeout_s: Seconds = 75.0
    max_waiting: typing.Annotated[int, msgspec.Meta(ge=1)] = 256
    max_held_bytes: typing.Annotated[int, msgspec.Meta(ge=65_536)] = 64 << 20
    model_threads: typing.Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    model_timeout_s: Seconds = 5.0
    memory_bytes: typing.Annotated[int, msgspec.Meta(ge=0)] = 0
    stop_timeout_s: SecondsOrNone = 10.0


class SpoolSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much may wait for the network.

    Parameters
    ----------
    limit_bytes : int
        Budget of everything that waits. Events and waiting scores make room first; sums are never dropped.
    fold_interval_s : float
        How often the journal is added up.
    """

    limit_bytes: typing.Annotated[int, msgspec.Meta(ge=65_536)] = 64 << 20
    fold_interval_s: Seconds = 1.0


class SyncSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the device talks to the cloud.

    Parameters
    ----------
    delta_memory_bytes : int
        A file is made from a delta only if that takes at most so much memory; else it is fetched whole.
    """

    timeout_s: Seconds = 30.0
    self_test_timeout_s: Seconds = 120.0
    delta_memory_bytes: typing.Annotated[int, msgspec.Meta(ge=0)] = 128 << 20


class UpdateSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a new generation may begin to answer; it is fetched and tested at once.

    Parameters
    ----------
    window : str
        Hours of the local day, such as ``02:00-05:00``; any time by default.
    lock_file : str
        While this file exists, the device does not switch.
    hook : str
        Address on this machine that is asked before a switch; an answer of 409, 423 or 503 says "not now".
    max_wait_s : float
        After so long the device switches all the same.
    variants : tuple of str
        Forms of a model that this device takes, the best first; the channel's order by default.
    memory_bytes : int
        A variant that may take more memory is passed over; 0 is no limit.
    """

    window: str = ""
    lock_file: str = ""
    hook: typing.Annotated[str, msgspec.Meta(pattern=r"^$|^http://(127\.0\.0\.1|localhost|\[::1\])[:/]")] = ""
    max_wait_s: SecondsOrNone = 3 * 86_400.0
    variants: tuple[str, ...] = ()
    memory_bytes: typing.Annotated[int, msgspec.Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        """Refuse hours that never come, while somebody looks: the device would not switch, and nobody would know."""
        first, _, last = self.window.partition("-")
        if self.window and (first == last or not all(re.fullmatch(_TIME, part) for part in (first, last))):
            raise ValueError(f"window: {self.window!r:.40} is no window: write it like 02:00-05:00, local time")


class DeviceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the device's owner says of it.

    Parameters
    ----------
    labels : mapping
        Such as ``{ store = "flagship" }``, for rollouts that begin with some devices. A label of the same name that the
        fleet has given the device counts instead. The label ``class`` says what kind of device it is: by default the
        first of ``[update] variants``, else ``standard``.
    """

    labels: dict[str, str] = {}


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a device."""

    serve: ServeSettings = ServeSettings()
    spool: SpoolSettings = SpoolSettings()
    sync: SyncSettings = SyncSettings()
    update: UpdateSettings = UpdateSettings()
    device: DeviceSettings = DeviceSettings()


class Identity(codec.Record, frozen=True, kw_only=True):
    """Who this device is, written once when it joins."""

    SCHEMA: typing.ClassVar[str] = "covey.identity/1"
    device: str
    region: str
    cloud_url: str


class Layout:
    """Paths below a device's store.

    Parameters
    ----------
    store : Path
        The folder that holds everything the device keeps.
    """

    def __init__(self, store: pathlib.Path) -> None:
        self.store = store
        self.identity = store / "identity.json"
        self.keys = store / "keys"
        self.device_key = self.keys / "device.pem"
        self.id_key = self.keys / "prediction-id.key"
        self.root = store / "root.json"
        self.tuf = store / "tuf"
        self.blobs = store / "blobs"
        self.generations = store / "generations"
        self.current = store / "current"
        self.state_db = store / "state.db"
        self.spool_db = store / "spool.db"
        self.journal = store / "journal"
        self.control = store / "control.sock"
        self.settings = store / "edge.toml"
        self.sync_lock = store / "sync.lock"
        self.serve_lock = store / "serve.lock"

    def load_identity(self) -> Identity:
        """Read who this device is.

        Raises
        ------
        NotFoundError
            The device has not joined a fleet.
        """
        try:
            data = self.identity.read_bytes()
        except FileNotFoundError as err:
            raise NotFoundError(
                f"{self.store} belongs to no fleet yet", fix="Join one: covey-edge join URL --token TOKEN"
            ) from err
        return codec.from_json(data, Identity)

    def load_settings(self, environ: typing.Mapping[str, str]) -> Settings:
        """Read the settings: defaults, then ``edge.toml``, then the environment."""
        try:
            text = self.settings.read_text() if self.settings.exists() else ""
        except UnicodeDecodeError as err:
            raise ConfigError(f"not UTF-8 text: {err}", field=str(self.settings), fix="Write it again.") from err
        data = settings.overlay_environment(settings.parse_toml(text, str(self.settings)), environ)
        read = settings.convert(data, Settings, source=str(self.settings), text=text)
        try:
            check_labels(read.device.labels, "device.labels")
        except UsageError as err:
            raise ConfigError(err.message, field=f"{self.settings}: {err.field}", fix=err.fix) from err
        return read


def find_store(flag: str | None) -> pathlib.Path:
    """Return the store's folder: flag, else ``COVEY_STORE``, else a folder in the home."""
    return pathlib.Path(flag or os.environ.get("COVEY_STORE") or DEFAULT_STORE).expanduser().absolute()
