"""Attacks on an update: spoiled bytes, replays, forged and nonsensical signatures. What ran goes on; it is reported."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import pathlib
import resource
import shutil
import time
import typing

import msgspec
import pytest

from cloud.publish.seal import load_bundle
from shared import bundle, codec
from shared.bundle import Golden
from shared.precomputed import KEY_BYTES, PrecomputedTable
from tests import attacked as world
from tests.attacked import FIRST_SEQUENCE, MODEL, REGION, STRANGER, Attacked

FILES = (bundle.MODEL_FILE, bundle.FEATURES_FILE, bundle.TABLE_FILE, bundle.GOLDEN_FILE, bundle.CARD_FILE)
CHANNEL, MANIFEST = f"channels/{REGION}.json", f"bundles/{MODEL}/v2/standard.json"
NEXT = FIRST_SEQUENCE + 1
GARBAGE = b"GIF89a"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, line: world.Line) -> pathlib.Path:
    return world.make_template(tmp_path_factory.mktemp("template"), line)


@pytest.fixture
def device(template: pathlib.Path, tmp_path: pathlib.Path, line: world.Line) -> typing.Iterator[Attacked]:
    with world.attacked(template, tmp_path / "world", line) as made:
        yield made


def refuse(device: Attacked, code: str, *says: str, times: int = 1) -> None:
    """Sync: refused each time, nothing has changed, the cloud hears of it once."""
    before, floor, heard = device.on_disk()[0], device.floor(), device.reports()
    for _ in range(times):
        done = device.sync()
        assert (done.ok, done.code, done.changed) == (False, code, False), done
        assert [words for words in says if words not in done.error] == [], done.error
        assert device.on_disk()[0] == before
        assert device.answering() == "v1"
        assert device.floor() == floor
    said = f"{code}: {done.error}"
    assert device.reports() == heard + [said] * (heard[-1:] != [said])


def recover(device: Attacked, version: str = "v2") -> None:
    """Sync once more: the honest update arrives, and the cloud hears of that too."""
    done = device.sync()
    assert (done.ok, done.changed, done.error) == (True, True, "")
    assert device.answering() == version
    assert device.store.fleet.get(world.DEVICE)["generation"] == device.on_disk()[0]


# ---- bytes are spoiled on the line


def flip(data: bytes) -> list[bytes]:
    """One bit is another."""
    middle = len(data) // 2
    return [data[:middle], bytes([data[middle] ^ 1]), data[middle + 1 :]]


def cut(data: bytes) -> list[bytes]:
    """The last byte is missing."""
    return [data[:-1]]


def endless(data: bytes) -> typing.Iterator[bytes]:
    """It never ends."""
    return itertools.chain([data], itertools.repeat(bytes(100_000)))


def garbage(_data: bytes) -> list[bytes]:
    """It is not what it should be at all."""
    return [b"<html>a hotel's login page</html>"]


def nothing(_data: bytes) -> list[bytes]:
    """It is empty."""
    return []


SPOILS: dict[typing.Callable[[bytes], typing.Iterable[bytes]], str] = {
    flip: "",
    cut: "",
    garbage: "",
    nothing: "",
    endless: "more",
}
ROLES = {"timestamp": "timestamp.json", "snapshot": ".snapshot.json", "targets": ".targets.json"}
ROLES |= {"bundles": ".bundles.json", "channels": ".channels.json"}
NAMED = ROLES | {CHANNEL: CHANNEL, MANIFEST: MANIFEST} | {name: f"{MODEL}@v2 {name}: " for name in FILES}


@pytest.mark.parametrize("what", NAMED)
def test_spoiled_bytes_are_refused_by_name_and_the_honest_ones_installed(device: Attacked, what: str) -> None:
    if what == "targets":
        (device.layout.tuf / "targets.json").unlink()  # it would not be fetched again otherwise
    device.publish_bundle()
    device.publish_channel(device.channel(NEXT))
    for spoil, says in SPOILS.items():
        device.line.spoiled = {device.path(what): spoil}
        refuse(device, "trust", NAMED[what], says)
    device.line.spoiled = {}
    recover(device)


def test_a_bomb_is_refused_before_it_fills_the_memory(device: Attacked) -> None:
    """A megabyte on the line unpacks to a gigabyte."""
    device.publish_bundle()
    device.publish_channel(device.channel(NEXT))
    device.line.headers = [("Content-Encoding", "gzip")]
    device.line.spoiled = {device.path(bundle.MODEL_FILE): lambda _: [gzip.compress(bytes(1 << 20)) * 1024]}
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refuse(device, "trust", f"{MODEL}@v2 {bundle.MODEL_FILE}: more than the signed")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 200_000


def test_a_file_that_is_missing_or_cut_off_is_fetched_again_later_and_nobody_is_blamed(device: Attacked) -> None:
    device.publish_bundle()
    device.publish_channel(device.channel(NEXT))
    blob = device.repository.folder / device.path(bundle.MODEL_FILE)
    aside = blob.rename(blob.with_suffix(".aside"))
    refuse(device, "not-found", "is not there", times=2)
    aside.rename(blob)
    device.line.headers = [("Content-Length", str(blob.stat().st_size))]
    device.line.spoiled = {device.path(bundle.MODEL_FILE): cut}
    heard = device.reports()
    done = device.sync()
    assert (done.ok, done.code, device.answering()) == (False, "unreachable", "v1")
    assert device.reports() == heard
    device.line.spoiled = {}
    recover(device)


# ---- what was good once comes again


def test_an_older_timestamp_is_refused(device: Attacked) -> None:
    old = device.read("timestamp")
    device.publish_bundle()
    assert device.sync().ok
    device.line.spoiled = {device.path("timestamp"): lambda _: [old]}
    refuse(device, "trust", "metadata/timestamp.json: older than what was seen before", times=2)
    device.line.spoiled = {}
    device.publish_channel(device.channel(NEXT))
    recover(device)


@pytest.mark.parametrize("role", ["snapshot", "bundles", "channels"])
def test_an_older_file_of_a_role_under_the_newest_name_is_refused(device: Attacked, role: str) -> None:
    old = device.read(role)
    device.publish_bundle()
    device.publish_channel(device.channel(NEXT))
    device.line.spoiled = {device.path(role): lambda _: [old]}
    refuse(device, "trust", f".{role}.json: ")
    device.line.spoiled = {}
    recover(device)


def test_an_older_channel_under_the_newest_name_is_refused(device: Attacked) -> None:
    old = device.read(CHANNEL)
    device.publish_bundle()
    device.publish_channel(device.channel(NEXT))
    device.line.spoiled = {device.path(CHANNEL): lambda _: [old]}
    refuse(device, "trust", f"{CHANNEL}: ")
    device.line.spoiled = {}
    recover(device)


def test_the_whole_repository_as_it_was_before_is_refused(device: Attacked) -> None:
    """Its signatures are good and nothing in it has expired; it only is not the newest any more."""
    was = device.project.repository.with_name("was")
    shutil.copytree(device.project.repository, was)
    device.publish_bundle()
    device.publish_channel(device.channel(NEXT, "v1"))
    assert device.sync().ok
    device.project.repository.rename(was.with_name("is"))
    was.rename(device.project.repository)
    refuse(device, "trust", "metadata/timestamp.json: older than what was seen before")


# ---- signatures


class Forged(typing.NamedTuple):
    """A role's metadata, signed again in a way it must not be.

    Parameters
    ----------
    key : str
        With which it is signed: of another role, or a stranger's; its own by default.
    version : int
        By how much the version differs from what the snapshot says.
    """

    role: str
    says: str
    key: str = ""
    expired: bool = False
    version: int = 0


FORGED = [
    *(Forged(role, f"{role} was signed by 0/1 keys", key=STRANGER) for role in ROLES),
    Forged("timestamp", "timestamp was signed by 0/1 keys", key="targets"),
    Forged("channels", "channels was signed by 0/1 keys", key="bundles"),
    Forged("bundles", "bundles was signed by 0/1 keys", key="online"),
    Forged("targets", "targets was signed by 0/1 keys", key="online"),
    Forged("next root", "root was signed by 0/1 keys", key=STRANGER, version=1),
    Forged("next root", "root was signed by 0/1 keys", key="online", version=1),
    *(Forged(role, "is expired", expired=True) for role in ROLES),
    Forged("next root", "root.json is expired", expired=True, version=1),
    Forged("timestamp", "timestamp version", version=-3),
    Forged("snapshot", "snapshot version", version=-1),
    Forged("snapshot", "snapshot version", version=1),
    Forged("channels", "channels.json: older than what was seen before: Expected channels v3, got v2", version=-1),
    Forged("bundles", "Expected bundles v3, got v4", version=1),
]


@pytest.mark.parametrize("forged", FORGED, ids=str)
def test_forged_metadata_is_refused_by_name_and_what_was_only_too_old_is_accepted_once_signed_anew(
    device: Attacked, forged: Forged
) -> None:
    if forged.role == "targets":
        (device.layout.tuf / "targets.json").unlink()
    device.publish_bundle()
    device.publish_channel(device.channel(NEXT))
    path = device.repository.folder / device.path(forged.role)
    sound = path.read_bytes() if path.exists() else b""
    device.forge(forged.role, key=forged.key, expired=forged.expired, version=forged.version)
    refuse(device, "trust", forged.says)
    if forged.expired:
        if sound:
            path.write_bytes(sound)
        else:
            device.forge("next root", version=1, lives_s=3600)  # what a right key signed stays; another root follows it
        recover(device)


def test_a_repository_that_stands_still_is_noticed_once_it_has_expired(device: Attacked) -> None:
    """Somebody holds the newest files back; all he has is good, for a while."""
    device.forge("timestamp", version=1, lives_s=8)
    until_s = time.monotonic() + 9.0
    assert device.sync().ok
    assert device.store.fleet.get(world.DEVICE)["report"]["stale_s"] == 0
    time.sleep(max(0.0, until_s - time.monotonic()))
    refuse(device, "trust", "timestamp.json is expired")
    assert device.store.fleet.get(world.DEVICE)["report"]["stale_s"] > 0


# ---- what is signed rightly and makes no sense


def other(**changes: typing.Any) -> typing.Callable[[Attacked], None]:
    """The channel has other fields."""
    return lambda device: device.publish_channel(device.channel(**{"sequence": NEXT} | changes))


def raw_channel(data: bytes) -> typing.Callable[[Attacked], None]:
    """The channel is something else altogether."""
    return lambda device: device.publish_channel(data)


def manifest(**changes: typing.Any) -> typing.Callable[[Attacked], None]:
    """The manifest of v2 has other fields; msgspec.UNSET takes one away."""

    def sign(device: Attacked) -> None:
        made = msgspec.to_builtins(device.publish_bundle("v3").manifest) | {"version": "v2"} | changes
        device.publish_manifest(codec.to_json(made))
        device.publish_channel(device.channel(NEXT))

    return sign


def raw_manifest(data: bytes) -> typing.Callable[[Attacked], None]:
    """The manifest is something else altogether."""

    def sign(device: Attacked) -> None:
        device.publish_manifest(data)
        device.publish_channel(device.channel(NEXT))

    return sign


def files(**changes: typing.Callable[[bytes], bytes]) -> typing.Callable[[Attacked], None]:
    """Some files of v2 are made from those of v1 in a way they should not be."""

    def sign(device: Attacked) -> None:
        made = {name.replace("_", "."): change for name, change in changes.items()}
        v1 = load_bundle(device.repository, MODEL, "v1").files
        device.publish_bundle("v2", {name: change(v1[name]) for name, change in made.items()})
        device.publish_channel(device.channel(NEXT))

    return sign


def wrong(golden: bytes) -> bytes:
    """One golden output is a hundredth higher."""
    made = codec.from_json(golden, Golden)
    first, *others = made.outputs
    return codec.to_json(msgspec.structs.replace(made, outputs=((first[0] + 0.01, *first[1:]), *others)))


def none(golden: bytes) -> bytes:
    """There is no golden row."""
    return codec.to_json(msgspec.structs.replace(codec.from_json(golden, Golden), rows=(), outputs=()))


def renamed(features: bytes) -> bytes:
    """Another feature set."""
    return features.replace(b'"blue"', b'"mauve"')


def of_garbage(table: bytes) -> bytes:
    """A table of answers that garbage gives."""
    return table[:64] + hashlib.sha256(GARBAGE).digest() + table[96:]


def out_of_order(table: bytes) -> bytes:
    """The first two keys stand in each other's place."""
    keys_at = PrecomputedTable(table)._keys_at
    first, second = table[keys_at : keys_at + KEY_BYTES], table[keys_at + KEY_BYTES : keys_at + 2 * KEY_BYTES]
    return table[:keys_at] + second + first + table[keys_at + 2 * KEY_BYTES :]


class Nonsense(typing.NamedTuple):
    """What the cloud signs with the right keys, and how it is refused."""

    sign: typing.Callable[[Attacked], None]
    code: str
    says: str


NONSENSE = {
    "a channel for another region": Nonsense(other(region="south"), "trust", "channel region"),
    "an older channel, signed anew": Nonsense(
        other(sequence=FIRST_SEQUENCE - 1), "trust", "channel sequence: sequence 4 after 5 was seen: a rollback attack"
    ),
    "a version that nobody signs": Nonsense(other(), "not-found", f"{MANIFEST}: nobody signs this"),
    "a channel that is not JSON": Nonsense(raw_channel(b"\x00\xff"), "wire", f"{CHANNEL} covey.channel/1: can not be"),
    "a channel that is empty": Nonsense(raw_channel(b""), "wire", f"{CHANNEL} covey.channel/1: "),
    "a channel of the future": Nonsense(raw_channel(b'{"schema": "covey.channel/2"}'), "wire-version", CHANNEL),
    "a manifest as channel": Nonsense(raw_channel(b'{"schema": "covey.bundle/1"}'), "wire", f"{CHANNEL} schema: "),
    "a channel too large": Nonsense(
        raw_channel(b" " * (2 << 20)), "wire", f"{CHANNEL} covey.channel/1: 2,097,152 bytes"
    ),
    "a manifest that is not JSON": Nonsense(raw_manifest(b"[" * 50_000), "wire", f"{MANIFEST} covey.bundle/1: "),
    "a manifest of the future": Nonsense(manifest(schema="covey.bundle/2"), "wire-version", f"{MANIFEST} schema: "),
    "a manifest of another model": Nonsense(manifest(model="other"), "trust", f"{MANIFEST}: the manifest is of other"),
    "a manifest of another version": Nonsense(manifest(version="v9"), "trust", f"the manifest is of {MODEL}@v9"),
    "a manifest of another variant": Nonsense(manifest(variant="tiny"), "trust", f"{MANIFEST}: the manifest is of"),
    "a manifest without files": Nonsense(manifest(files=[]), "wire", f"{MANIFEST} manifest files: features.json"),
    "a manifest with a path for a name": Nonsense(
        manifest(files=[{"name": "../../identity.json", "sha256": "0" * 64, "length": 1}]),
        "wire",
        f"{MANIFEST} manifest files[0]",
    ),
    "a manifest of other features": Nonsense(
        manifest(features_sha256="0" * 64), "model", "the feature set is not the one of the manifest"
    ),
    "other features": Nonsense(files(features_json=renamed), "model", "the feature set is not the one"),
    "golden outputs that do not match": Nonsense(files(golden_json=wrong), "model", "golden row 1: expected"),
    "no golden rows": Nonsense(files(golden_json=none), "model", "there are no golden rows"),
    "a model that is garbage": Nonsense(
        files(model_onnx=lambda _: GARBAGE, precomputed_bin=of_garbage), "model", "is not of ONNX"
    ),
    "a table of another model": Nonsense(
        files(precomputed_bin=lambda data: data), "model", "the table belongs to another model"
    ),
    "a table that is out of order": Nonsense(
        files(model_onnx=lambda data: data, precomputed_bin=out_of_order), "model", "is out of order"
    ),
}


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=list(NONSENSE))
def test_signed_nonsense_is_refused_by_name_and_a_version_that_failed_gives_way_to_the_next(
    device: Attacked, nonsense: Nonsense
) -> None:
    nonsense.sign(device)
    refuse(device, nonsense.code, nonsense.says)
    if nonsense.code == "model":
        # What failed on a device is not tried again there, and the cloud knows.
        refuse(device, "model", "failed here before: ", nonsense.says, times=2)
        (runs,) = device.store.fleet.get(world.DEVICE)["report"]["models"]
        assert nonsense.says in runs["refused"]["v2"]
        device.publish_bundle("v7")
        device.publish_channel(device.channel(NEXT + 1, "v7"))
        recover(device, "v7")
