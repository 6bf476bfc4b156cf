"""The private keys that are here: found by the ids that the metadata trusts, opened when something is to be signed."""

from __future__ import annotations

import pathlib
import typing

from securesystemslib.signer import CryptoSigner

from cloud.publish.keys import is_encrypted, key_path, open_key, read_public, read_secret
from shared.errors import ConfigError, NotFoundError


class KeyFile(typing.NamedTuple):
    """A private key in the folder.

    Parameters
    ----------
    keyid : str
        Empty if nobody can tell: it is encrypted, and its public half is not beside it.
    """

    path: pathlib.Path
    role: str
    keyid: str
    encrypted: bool


class Keyring:
    """The keys of a folder: ``<role>.pem`` and ``<role>-<id>.pem``.

    Parameters
    ----------
    folder : Path
        Where they are; there may be none.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder

    def files(self, role: str) -> list[KeyFile]:
        """Return the private keys of a role that are here, opened or not.

        Raises
        ------
        ConfigError
            Others can read one of them, or it is no key.
        """
        paths = [key_path(self.folder, role), *sorted(self.folder.glob(f"{role}-*.pem"))]
        return [_look(path, role) for path in paths if path.exists()]

    def openable(self, role: str, keyids: typing.Collection[str]) -> list[CryptoSigner]:
        """Return those of the named keys that are here and that can be opened."""
        return [found for found in self._tried(role, keyids) if isinstance(found, CryptoSigner)]

    def signers(self, role: str, keyids: typing.Collection[str], threshold: int) -> list[CryptoSigner]:
        """Return those of the named keys that are here; so many at least.

        Raises
        ------
        NotFoundError, ConfigError
            There are fewer; or one that is needed is encrypted, and no passphrase opens it.
        """
        tried = self._tried(role, keyids)
        found = [one for one in tried if isinstance(one, CryptoSigner)]
        if len(found) >= threshold:
            return found
        for locked in tried:
            if isinstance(locked, ConfigError):
                raise locked
        if threshold == 1:
            raise NotFoundError(
                f"the key of {role} is not here",
                field=str(key_path(self.folder, role)),
                fix="Bring it, or restore it.",
            )
        raise NotFoundError(
            f"{threshold} keys of {role} have to sign, and {len(found)} of them are here",
            field=str(self.folder),
            fix="Bring the others, or restore them.",
        )

    def _tried(self, role: str, keyids: typing.Collection[str]) -> list[CryptoSigner | ConfigError]:
        """Open the named keys; what stays locked is there as the reason why."""
        tried: list[CryptoSigner | ConfigError] = []
        for file in self.files(role):
            if file.keyid and file.keyid not in keyids:
                continue
            try:
                signer = open_key(file.path, role)
            except ConfigError as err:
                if not file.encrypted:
                    raise
                tried.append(err)
                continue
            if signer.public_key.keyid in keyids:
                tried.append(signer)
        return tried


def _look(path: pathlib.Path, role: str) -> KeyFile:
    data = read_secret(path, f"the key of {role}")
    if not is_encrypted(data):
        return KeyFile(path, role, open_key(path, role).public_key.keyid, encrypted=False)
    beside = path.with_suffix(".pub")
    return KeyFile(path, role, read_public(beside).keyid if beside.exists() else "", encrypted=True)
