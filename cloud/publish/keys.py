"""Files of signing keys: one or several for each role, readable by nobody else, encrypted if their owner wants it."""

from __future__ import annotations

import os
import pathlib
import typing

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from cloud.store.blobs import write_file
from shared.errors import ConfigError, ConflictError, NotFoundError

ROLES = ("root", "targets", "bundles", "online")
PASSPHRASE_VARIABLE = "COVEY_KEY_PASSPHRASE_FILE"  # noqa: S105 - the name of a variable
SHORT = 16  # characters of a key id that people compare; fewer could be imitated
_SECRET_MODE, _FOLDER_MODE = 0o600, 0o700
_LARGEST = 1 << 16
_MIN_PASSPHRASE = 8


def create_keys(folder: pathlib.Path) -> None:
    """Make a key for each role that has none yet."""
    folder.mkdir(parents=True, exist_ok=True, mode=_FOLDER_MODE)
    for role in ROLES:
        path = key_path(folder, role)
        if not path.exists():
            write_file(path, CryptoSigner.generate_ed25519().private_bytes, _SECRET_MODE)


def write_key(folder: pathlib.Path, role: str, signer: CryptoSigner, passphrase: bytes | None = None) -> pathlib.Path:
    """Keep another key of a role: ``<role>-<id>.pem``, and ``.pub`` with its public half.

    Nobody trusts it before it is added.

    Parameters
    ----------
    passphrase : bytes, optional
        Encrypts the file.

    Raises
    ------
    ConflictError
        There is such a file.
    """
    private = load_pem_private_key(signer.private_bytes, None)
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase)
    data = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    folder.mkdir(parents=True, exist_ok=True, mode=_FOLDER_MODE)
    path = folder / f"{role}-{signer.public_key.keyid[:SHORT]}.pem"
    if path.exists():
        raise ConflictError(f"{path} is there already", fix="Make another key.")
    write_file(path.with_suffix(".pub"), public)
    write_file(path, data, _SECRET_MODE)
    return path


def key_path(folder: pathlib.Path, role: str) -> pathlib.Path:
    """Path of a role's first key."""
    return folder / f"{role}.pem"


def load_signer(folder: pathlib.Path, role: str) -> CryptoSigner:
    """Read a role's first key.

    Raises
    ------
    NotFoundError, ConfigError
        It is not here; or it is not a key, or others can read it, or it stays locked.
    """
    return open_key(key_path(folder, role), role)


def open_key(path: pathlib.Path, role: str = "this file", passphrases: typing.Sequence[bytes] = ()) -> CryptoSigner:
    """Read a private key, with the passphrases of this command where it is encrypted.

    Parameters
    ----------
    passphrases : sequence of bytes
        Tried one after the other, then those of the files that the environment names.

    Raises
    ------
    NotFoundError, ConfigError
        It is not here; or it is not a key, or others can read it, or no passphrase opens it.
    """
    data = read_secret(path, f"the key of {role}")
    if not is_encrypted(data):
        return _signer(path, data, None)
    known = [*passphrases, *environment_passphrases()]
    if not known:
        raise ConfigError(
            "the key is encrypted", field=str(path), fix=f"Name the file of its passphrase: {PASSPHRASE_VARIABLE}=FILE"
        )
    for passphrase in known[:-1]:
        try:
            return _signer(path, data, passphrase)
        except ConfigError:
            continue
    return _signer(path, data, known[-1])


def _signer(path: pathlib.Path, data: bytes, passphrase: bytes | None) -> CryptoSigner:
    try:
        return CryptoSigner(load_pem_private_key(data, passphrase))
    except (ValueError, TypeError) as err:
        if passphrase is None:
            raise ConfigError(f"not a signing key: {err}", field=str(path), fix="Restore it from a backup.") from err
        raise ConfigError("the passphrase does not open this key", field=str(path), fix="Give the right one.") from err


def is_encrypted(data: bytes) -> bool:
    """Tell whether a private key wants a passphrase."""
    return b"ENCRYPTED" in data


def read_secret(path: pathlib.Path, what: str) -> bytes:
    """Read a file that nobody else may read.

    Raises
    ------
    NotFoundError, ConfigError
        It is not here; or others can read it.
    """
    try:
        with path.open("rb") as file:
            mode, data = os.fstat(file.fileno()).st_mode, file.read(_LARGEST)
    except FileNotFoundError as err:
        raise NotFoundError(f"{what} is not here", field=str(path), fix="Bring it, or restore it.") from err
    if mode & 0o077 and os.name == "posix":
        raise ConfigError(f"{what} can be read by others", field=str(path), fix=f"chmod 600 {path}")
    return data


def read_passphrase(path: pathlib.Path) -> bytes:
    """Read a passphrase: all of a file but the end of its last line.

    Raises
    ------
    ConfigError
        It is not here, or others can read it, or it is too short.
    """
    try:
        passphrase = read_secret(path, "the passphrase").rstrip(b"\r\n")
    except NotFoundError as err:
        raise ConfigError(err.message, field=err.field, fix="Name the file that holds it.") from err
    if len(passphrase) < _MIN_PASSPHRASE:
        raise ConfigError(
            f"{len(passphrase)} characters are no passphrase", field=str(path), fix=f"Take {_MIN_PASSPHRASE} or more."
        )
    return passphrase


def environment_passphrases() -> list[bytes]:
    """Read the passphrases of the files that the environment names, several joined by ``:``."""
    named = os.environ.get(PASSPHRASE_VARIABLE, "")
    return [read_passphrase(pathlib.Path(name)) for name in named.split(os.pathsep) if name]


def read_public(path: pathlib.Path) -> Key:
    """Read the public half of a key from a ``.pub`` file, or from the private key itself.

    Raises
    ------
    NotFoundError, ConfigError
        It is not here; or it is not a key, or a private one that others can read or that stays locked.
    """
    try:
        data = path.read_bytes()[:_LARGEST]
    except FileNotFoundError as err:
        raise NotFoundError("the key is not here", field=str(path), fix="Bring its .pub file.") from err
    if b"PRIVATE KEY" in data:
        return open_key(path).public_key
    try:
        return SSlibKey.from_crypto(load_pem_public_key(data))
    except ValueError as err:
        raise ConfigError(f"not a public key: {err}", field=str(path), fix="Give the .pub file of a key.") from err
