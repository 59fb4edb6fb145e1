"""Blobs by their digest in a folder: vectors and weights never travel through the broker or the database.

The digest is SHA-256, or for packed vectors the one that their signed headers carry (BLAKE3, marked as such).
"""

import hashlib
import os
import secrets
from pathlib import Path

from learning.errors import UnknownError
from learning.secagg.packing import is_vector_digest, vector_digest

_HEX = frozenset("0123456789abcdef")
_LENGTH = 64


class FolderBlobs:
    """A blob store in a folder that only its owner can read."""

    def __init__(self, folder: Path) -> None:
        """Use ``folder``, making it when it is missing."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put(self, data: bytes | bytearray | memoryview, digest: str | None = None) -> str:
        """Store ``data`` and return its name; storing it again changes nothing.

        Args:
            data: the bytes.
            digest: their digest where the caller has just computed it or compared them with it; never a peer's word.
                None names them by their SHA-256.
        """
        digest = digest or hashlib.sha256(data).hexdigest()
        self._write(digest, data)
        return digest

    def get(self, digest: str) -> bytes:
        """Return the bytes of ``digest``.

        Raises:
            UnknownError: there is no such blob, or what is stored does not match its name.
        """
        return self._read(digest, digest)

    def put_claimed(self, data: bytes | bytearray | memoryview, digest: str) -> str:
        """Store bytes whose digest is said to be ``digest``, unread; return the name under which they lie.

        That name is no content's: wrong bytes can stand in nobody's way, and :meth:`get` finds them damaged.
        """
        name = _claimed(digest)
        self._write(name, data)
        return name

    def get_claimed(self, digest: str) -> bytes:
        """Return what :meth:`put_claimed` stored for ``digest``.

        Raises:
            UnknownError: nothing, or other bytes than was said.
        """
        return self._read(_claimed(digest), digest)

    def _write(self, name: str, data: bytes | bytearray | memoryview) -> None:
        path = self.path(name)
        if path.exists():
            return
        path.parent.mkdir(exist_ok=True, mode=0o700)
        # Written aside and renamed: a reader never sees half a blob, whatever dies.
        temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.rename(path)

    def _read(self, name: str, digest: str) -> bytes:
        try:
            data = self.path(name).read_bytes()
        except FileNotFoundError:
            raise UnknownError(f"no blob {digest}") from None
        if _made(digest, data) != digest:
            raise UnknownError(f"blob {digest} is damaged")
        return data

    def delete(self, digest: str) -> None:
        """Forget a blob; a missing one is no error."""
        self.path(digest).unlink(missing_ok=True)

    def path(self, digest: str) -> Path:
        """Return where a blob lies.

        Raises:
            UnknownError: ``digest`` is neither a vector's nor a SHA-256 in lower-case hexadecimal.
        """
        if not (is_vector_digest(digest) or (len(digest) == _LENGTH and set(digest) <= _HEX)):
            raise UnknownError("not a blob digest")
        return self.folder / digest[-_LENGTH:][:2] / digest.replace(":", "-")


def _made(digest: str, data: bytes) -> str:
    return vector_digest(data) if is_vector_digest(digest) else hashlib.sha256(data).hexdigest()


def _claimed(digest: str) -> str:
    return hashlib.sha256(f"claimed {digest}".encode()).hexdigest()
