"""Keys and credentials on disk: private keys as PKCS#8 PEM readable by their owner only, the rest as text or JSON."""

import json
import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from connector.identity.errors import IdentityFileError
from connector.identity.membership import Authority
from policies.signing import Signer

_OWNER_ONLY = 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def write_secret(path: Path, data: bytes) -> None:
    """Create a file that only its owner can read; one that exists is never overwritten.

    Raises:
        IdentityFileError: it exists already or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except FileExistsError as error:
        raise IdentityFileError(f"{path}: exists already and is kept; move it away to make a new one") from error
    except OSError as error:
        raise IdentityFileError(f"{path}: cannot be written ({error.strerror})") from error


def read_text(path: Path) -> str:
    """Return the stripped text of a small file.

    Raises:
        IdentityFileError: missing, unreadable or empty.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise IdentityFileError(f"{path}: cannot be read ({reason})") from error
    if not text:
        raise IdentityFileError(f"{path}: is empty")
    return text


def read_secret(path: Path) -> str:
    """Return the text of a secret file that nobody but its owner can read.

    Raises:
        IdentityFileError: missing, empty, or open to others.
    """
    text = read_text(path)
    if path.stat().st_mode & _OTHERS:
        raise IdentityFileError(f"{path}: is readable by others; run: chmod 600 {path}")
    return text


def write_key(path: Path) -> None:
    """Make a fresh Ed25519 private key file."""
    key = Ed25519PrivateKey.generate()
    write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def read_signer(path: Path, kid: str) -> Signer:
    """Return the signer of a private key file, known to others as ``kid``.

    Raises:
        IdentityFileError: missing, open to others, or not an Ed25519 key.
    """
    try:
        key = load_pem_private_key(read_secret(path).encode(), password=None)
    except (ValueError, TypeError) as error:
        raise IdentityFileError(f"{path}: is not a PEM private key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityFileError(f"{path}: is not an Ed25519 key")
    return Signer(kid=kid, private_key=key)


def write_authority(path: Path, authority: Authority) -> None:
    """Write what participants need to know about a data-space authority."""
    path.write_text(json.dumps({"id": authority.id, "public_key": authority.public_key}, indent=2) + "\n", "utf-8")


def read_authority(path: Path) -> Authority:
    """Return the data-space authority of a public file.

    Raises:
        IdentityFileError: missing or malformed.
    """
    try:
        document = json.loads(read_text(path))
        return Authority(id=str(document["id"]), public_key=str(document["public_key"]))
    except (ValueError, KeyError, TypeError) as error:
        raise IdentityFileError(f"{path}: is not an authority file (id and public_key)") from error
