"""Metadata is signed anew in time, so that no device refuses an update because nobody has published for a year."""

from __future__ import annotations

import datetime as dt
import pathlib

import pytest
from tuf.api.metadata import Metadata, Root
from tuf.ngclient import Updater

from cloud.cli.base import Here
from cloud.cli.doctor import examine
from cloud.config import Project
from cloud.publish.keys import create_keys
from cloud.publish.repository import LIFETIME, SIGNED_BY, SignedRepository

DAY = dt.timedelta(days=1)


@pytest.fixture
def repository(tmp_path: pathlib.Path) -> SignedRepository:
    create_keys(tmp_path / "keys")
    made = SignedRepository(tmp_path / "repo", tmp_path / "keys")
    made.create()
    return made


def test_nothing_is_signed_while_all_is_young(repository: SignedRepository) -> None:
    before = repository.versions()
    assert repository.refresh() == []
    assert repository.versions() == before


@pytest.mark.parametrize("role", LIFETIME)
def test_each_role_is_signed_anew_after_half_its_life_and_what_names_it_too(
    repository: SignedRepository, role: str
) -> None:
    before = repository.versions()
    moment = dt.datetime.now(dt.UTC) + LIFETIME[role] / 2 + DAY
    assert role in repository.refresh(moment)
    after = repository.versions()
    assert after[role] == before[role] + 1
    assert after["timestamp"] > before["timestamp"]
    assert repository.expiries()[role] > dt.datetime.now(dt.UTC) + LIFETIME[role] - DAY
    assert repository.overdue() == {}


@pytest.mark.parametrize("role", ["root", "targets", "bundles"])
def test_a_role_whose_key_is_elsewhere_waits_for_it_and_the_others_are_signed(
    repository: SignedRepository, tmp_path: pathlib.Path, role: str
) -> None:
    (tmp_path / "keys" / f"{SIGNED_BY[role]}.pem").unlink()
    moment = dt.datetime.now(dt.UTC) + 200 * DAY
    renewed = repository.refresh(moment)
    assert role not in renewed
    assert {"root", "targets", "bundles", "channels", "snapshot", "timestamp"} - {role} == set(renewed)
    assert list(repository.overdue(moment + 100 * DAY)) != []
    assert role in repository.overdue(moment + 100 * DAY)


def test_a_client_follows_through_a_renewal_of_everything(repository: SignedRepository, tmp_path: pathlib.Path) -> None:
    repository.refresh(dt.datetime.now(dt.UTC) + 200 * DAY)
    folder = tmp_path / "device"
    folder.mkdir()
    client = Updater(str(folder), "http://nobody/", bootstrap=repository.root_bytes(), fetcher=FromDisk(repository))
    client.refresh()
    assert Metadata[Root].from_bytes((folder / "root.json").read_bytes()).signed.version == 2


class FromDisk:
    """Fetches metadata from the repository's folder."""

    def __init__(self, repository: SignedRepository) -> None:
        self._folder = repository.folder / "metadata"

    def download_bytes(self, url: str, max_length: int) -> bytes:
        from tuf.api.exceptions import DownloadHTTPError

        path = self._folder / url.rsplit("/", 1)[1]
        if not path.exists():
            raise DownloadHTTPError("not there", 404)
        return path.read_bytes()[:max_length]


def test_doctor_names_the_key_to_bring(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    (project.keys / "root.pem").unlink()
    here = Here(project.folder)
    found = {finding.name: finding for finding in examine(here)}
    assert found["keys"].ok
    assert "kept elsewhere: root" in found["keys"].detail
    assert found["repository"].ok
    monkeypatch.setitem(LIFETIME, "root", 4 * 366 * DAY)
    found = {finding.name: finding for finding in examine(here)}
    assert not found["repository"].ok
    assert "Bring the key keys/root.pem" in found["repository"].detail
