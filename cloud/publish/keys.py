"""The project's signing keys, one file for each role, readable by nobody else."""

from __future__ import annotations

import os
import pathlib

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner

from cloud.store.blobs import write_file
from shared.errors import ConfigError, NotFoundError

ROLES = ("root", "targets", "bundles", "online")
_SECRET_MODE, _FOLDER_MODE = 0o600, 0o700


def create_keys(folder: pathlib.Path) -> None:
    """Make a key for each role that has none yet."""
    folder.mkdir(parents=True, exist_ok=True, mode=_FOLDER_MODE)
    for role in ROLES:
        path = key_path(folder, role)
        if not path.exists():
            write_file(path, CryptoSigner.generate_ed25519().private_bytes, _SECRET_MODE)


def key_path(folder: pathlib.Path, role: str) -> pathlib.Path:
    """Path of a role's key."""
    return folder / f"{role}.pem"


def load_signer(folder: pathlib.Path, role: str) -> CryptoSigner:
    """Read a role's key.

    Raises
    ------
    NotFoundError, ConfigError
        It is not here; or it is not a key, or others can read it.
    """
    path = key_path(folder, role)
    try:
        data = path.read_bytes()
        mode = path.stat().st_mode
    except FileNotFoundError as err:
        raise NotFoundError(f"the key of {role} is not here", field=str(path), fix="Bring it, or restore it.") from err
    if mode & 0o077 and os.name == "posix":
        raise ConfigError("the key can be read by others", field=str(path), fix=f"chmod 600 {path}")
    try:
        return CryptoSigner(load_pem_private_key(data, None))
    except (ValueError, TypeError) as err:
        raise ConfigError(f"not a signing key: {err}", field=str(path), fix="Restore it from a backup.") from err
