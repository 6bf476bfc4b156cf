"""A device that was away for a year: it answers, says how old its news are, refuses what has expired, and catches up.

The past is real: the project is made, and its metadata are signed anew, by processes whose clock is set back
(libfaketime).
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import typing

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from cloud.publish.keys import key_path, load_signer
from cloud.store.blobs import write_file
from tests import attacked as world
from tests.attacked import FIRST_SEQUENCE, Attacked

ROOT = pathlib.Path(__file__).parents[2]
AWAY_DAYS = 400
DAY_S = 86_400
pytestmark = pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed")

# libfaketime takes the fake clock for the monotonic one where Python sleeps.
SLEEP = """
import select, time
time.sleep = lambda seconds: select.select([], [], [], max(seconds, 0))
"""
MAKE = f"""{SLEEP}
import pathlib, sys
from tests import attacked as world
line = world.Line()
try:
    world.make_template(pathlib.Path(sys.argv[1]), line)
finally:
    line.close()
"""
REFRESH = """
import pathlib, sys
from cloud.publish.repository import SignedRepository
print(*SignedRepository(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])).refresh())
"""


def days_ago(days: int, program: str, *arguments: pathlib.Path) -> str:
    """Run a program in a process that lives so many days ago; time passes for it as it does for all."""
    clock = ["faketime", "--exclude-monotonic", "-f", f"-{days}d"]
    command = [*clock, sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def device(tmp_path: pathlib.Path, line: world.Line) -> typing.Iterator[Attacked]:
    """A device that joined and took v1 a year and a month ago, and is switched on today."""
    days_ago(AWAY_DAYS, MAKE, tmp_path / "template")
    with world.attacked(tmp_path / "template", tmp_path / "world", line) as made:
        yield made


def replace_root_key(device: Attacked) -> None:
    """Sign the next root with a new key, which it names instead of the old one, and with the old one."""
    keys, repository = device.project.keys, device.repository
    version = repository.versions()["root"]
    meta = Metadata[Root].from_bytes((repository.folder / "metadata" / f"{version}.root.json").read_bytes())
    old, new = load_signer(keys, "root"), CryptoSigner.generate_ed25519()
    meta.signed.revoke_key(old.public_key.keyid, "root")
    meta.signed.add_key(new.public_key, "root")
    meta.signed.version += 1
    meta.signatures.clear()
    for signer in (old, new):
        meta.sign(signer, append=True)
    write_file(repository.folder / "metadata" / f"{version + 1}.root.json", meta.to_bytes())
    write_file(key_path(keys, "root"), new.private_bytes, 0o600)


def said_at(device: Attacked) -> dict[str, typing.Any]:
    """What the cloud heard last from the device."""
    return dict(device.store.fleet.get(world.DEVICE)["report"])


def test_a_device_that_was_away_for_a_year_answers_refuses_what_has_expired_and_catches_up(device: Attacked) -> None:
    assert device.answering() == "v1"
    before = device.on_disk()
    # At first there is no network.
    done = device.sync()
    assert (done.ok, done.code, done.changed) == (False, "unreachable", False)
    assert (device.on_disk(), device.answering()) == (before, "v1")
    # Then there is, and the repository is as it was: nobody has looked after it, or somebody shows a copy.
    identity, then = device.layout.identity, device.layout.load_identity().cloud_url
    identity.write_text(identity.read_text().replace(then, device.line.url))
    for _ in range(2):
        done = device.sync()
        assert (done.ok, done.code, done.changed) == (False, "trust", False)
        assert "expired" in done.error
        assert (device.on_disk(), device.answering()) == (before, "v1")
    assert said_at(device)["stale_s"] > (AWAY_DAYS - 8) * DAY_S
    assert device.reports() == [f"trust: {done.error}"]
    # It had been looked after: signed anew twice, and the key of the root was replaced each time.
    for days in (210, 20):
        signed = days_ago(days, REFRESH, device.repository.folder, device.project.keys)
        assert {"root", "targets", "bundles", "channels", "snapshot", "timestamp"} == set(signed.split())
        replace_root_key(device)
    # But not in the last three weeks: everything but the timestamp is good.
    assert "timestamp.json is expired" in device.sync().error
    device.publish_bundle()
    device.publish_channel(device.channel(FIRST_SEQUENCE + 1))
    done = device.sync()
    assert (done.ok, done.changed, done.error) == (True, True, "")
    assert device.answering() == "v2"
    root = Metadata[Root].from_bytes((device.layout.tuf / "root.json").read_bytes())
    assert root.signed.version == device.repository.versions()["root"] == 5
    assert said_at(device)["stale_s"] == 0
