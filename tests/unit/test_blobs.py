"""Blobs in a folder: named by content, or by what somebody said that it is."""

from pathlib import Path

import pytest

from connector.storage.blobs import FolderBlobs
from learning.errors import UnknownError
from learning.secagg.packing import vector_digest
from policies.canonical import sha256_hex


def test_what_is_claimed_is_compared_when_it_is_read(tmp_path: Path) -> None:
    """Right bytes come back, wrong ones are not there; either can be deleted by the name that storing them gave."""
    blobs = FolderBlobs(tmp_path / "blobs")
    right, wrong = sha256_hex(b"right"), sha256_hex(b"promised")
    names = [blobs.put_claimed(b"right", right), blobs.put_claimed(b"other", wrong)]
    assert blobs.get_claimed(right) == b"right"
    with pytest.raises(UnknownError):
        blobs.get_claimed(wrong)
    for name in names:
        blobs.delete(name)
    with pytest.raises(UnknownError):
        blobs.get_claimed(right)
    assert list((tmp_path / "blobs").glob("??/*")) == []


def test_a_wrong_claim_stands_in_nobodys_way(tmp_path: Path) -> None:
    """Bytes under a false claim are neither found under that digest nor keep the right ones from being stored."""
    blobs = FolderBlobs(tmp_path / "blobs")
    digest = sha256_hex(b"model")
    name = blobs.put_claimed(b"not the model", digest)
    with pytest.raises(UnknownError):
        blobs.get(digest)
    with pytest.raises(UnknownError):
        blobs.get(name)
    assert blobs.put(b"model") == digest
    assert blobs.get(digest) == b"model"


def test_a_vector_lies_under_its_own_name(tmp_path: Path) -> None:
    """The digest of a signed header finds it; other bytes at that place are damage; a path is no name."""
    blobs = FolderBlobs(tmp_path / "blobs")
    name = blobs.put(b"vector", vector_digest(b"vector"))
    assert name.startswith("blake3:")
    assert blobs.get(name) == b"vector"
    claimed = blobs.put_claimed(b"vector", name)
    assert claimed != name
    assert blobs.get_claimed(name) == b"vector"
    blobs.path(name).write_bytes(b"victor")
    with pytest.raises(UnknownError, match="damaged"):
        blobs.get(name)
    blobs.delete(name)
    with pytest.raises(UnknownError, match="no blob"):
        blobs.get(name)
    for other in (name.upper(), f"blake3:../{name[10:]}", f"sha256:{name[7:]}", f":{name[7:]}", "blake3:"):
        with pytest.raises(UnknownError, match="not a blob digest"):
            blobs.get(other)
