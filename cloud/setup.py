"""Make a project's folder: files, keys, signed repository, database, and a first join token."""

from __future__ import annotations

import pathlib
import typing

from cloud import enrol
from cloud.config import CONFIG_FILE, Project, load_project
from cloud.publish.keys import create_keys
from cloud.publish.repository import SignedRepository
from cloud.store.blobs import write_file
from cloud.store.store import Store
from shared.errors import ConflictError

_SECRET_MODE = 0o600
_A_YEAR_S = 365 * 86_400.0
_FIRST_DEVICES = 100
_IGNORED = "keys/\nvar/\n"
JOIN_TOKEN_FILE = "join-token"  # noqa: S105 - a file name


def create_project(folder: pathlib.Path, files: typing.Mapping[str, str], *, actor: str) -> Project:
    """Write a project; ``covey.toml`` goes last, so that half a project is no project.

    Parameters
    ----------
    files : mapping
        Path to text; ``covey.toml`` among them.

    Raises
    ------
    ConflictError
        There is one already.
    ConfigError
        ``covey.toml`` makes no sense; the folder is left without it.
    """
    if (folder / CONFIG_FILE).exists():
        raise ConflictError(f"{folder} is a project already", fix="Choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        if path != CONFIG_FILE:
            write_file(folder / path, text.encode())
    keys = folder / "keys"
    create_keys(keys)
    enrol.create_session_key(keys)
    repository = SignedRepository(folder / "var" / "repo", keys)
    if not repository.exists:
        repository.create()
    write_file(folder / ".gitignore", _IGNORED.encode())
    write_file(folder / CONFIG_FILE, files[CONFIG_FILE].encode())
    try:
        project = load_project(folder.resolve())
    except BaseException:
        (folder / CONFIG_FILE).unlink()
        raise
    store = Store(project)
    first = project.settings.regions.order[0]
    token = enrol.new_join_token(project, store, region=first, uses=_FIRST_DEVICES, lifetime_s=_A_YEAR_S, actor=actor)
    write_file(keys / JOIN_TOKEN_FILE, f"{token}\n".encode(), _SECRET_MODE)
    store.close()
    return project
