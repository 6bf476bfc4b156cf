"""The device's own key: made here, kept in a file that only this user may read, and replaced without a gap."""

from __future__ import annotations

import pathlib

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.files import fsync_folder, sweep, write_atomic
from shared.errors import UsageError

_SECRET_MODE = 0o600


class KeyFile:
    """The device's key on disk, and beside it the one that is about to take its place.

    The new key is on disk before the cloud hears of it, and the old one until the cloud has acknowledged the new:
    killed anywhere between, the device holds the one that the cloud accepts, and finishes at the next sign-in.

    Parameters
    ----------
    path : Path
        The key; read again whenever it is needed, since another process may have replaced it.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path, self._next_path = path, path.with_name(f"next-{path.name}")
        self.load()

    def load(self) -> Ed25519PrivateKey:
        """Read the key."""
        return load_key(self._path)

    @property
    def is_rotating(self) -> bool:
        """Whether a new key was made that the cloud has not acknowledged."""
        return self._next_path.exists()

    def begin(self) -> Ed25519PrivateKey:
        """Return the new key; made, and on disk, if there is none yet."""
        if not self.is_rotating:
            write_atomic(self._next_path, key_bytes(new_key()), _SECRET_MODE)
        return load_key(self._next_path)

    def finish(self) -> None:
        """Put the new key in the place of the old one, in one step."""
        self._next_path.replace(self._path)
        fsync_folder(self._path.parent)
        sweep(self._path.parent)


def new_key() -> Ed25519PrivateKey:
    """Make a device key; its private half stays on the device."""
    return Ed25519PrivateKey.generate()


def key_bytes(key: Ed25519PrivateKey) -> bytes:
    """Return the key as PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_hex(key: Ed25519PrivateKey) -> str:
    """Return the public half, hex."""
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw).hex()


def load_key(path: pathlib.Path) -> Ed25519PrivateKey:
    """Read the device's key.

    Raises
    ------
    UsageError
        The file is not such a key.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as err:
        raise UsageError(f"can not be read as a key: {err}", field=str(path), fix="Join the fleet again.") from err
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError("not an Ed25519 key", field=str(path), fix="Join the fleet again.")
    return key
