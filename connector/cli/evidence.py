"""Files of evidence for commands that verify offline: the document, and the key of whoever is said to have signed it."""

import json
from pathlib import Path
from typing import Any

from policies.errors import EvidenceError


def read_document(path: Path) -> dict[str, Any]:
    """Return a signed JSON document from a file.

    Raises:
        EvidenceError: it cannot be read or is not a JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EvidenceError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise EvidenceError(f"{path}: is not JSON") from error
    if not isinstance(found, dict):
        raise EvidenceError(f"{path}: is not a signed document")
    return found


def issuer_key(document: dict[str, Any], key: str | None, did: Path | None) -> tuple[str, bool]:
    """Return the key to check a document with, and whether it is known from elsewhere than the document itself.

    Args:
        document: a receipt or an export, which names the key it claims to be signed with.
        key: raw Ed25519 public key, base64url, as the holder knows it.
        did: the issuer's DID document (``/.well-known/did.json``), saved to a file.

    Raises:
        EvidenceError: neither holds a key.
    """
    if key is not None:
        return key, True
    if did is not None:
        return _of_did(read_document(did), did), True
    payload = document.get("payload")
    claimed = payload.get("issuer_key") if isinstance(payload, dict) else None
    if not isinstance(claimed, str):
        raise EvidenceError("the document names no key; give the issuer's with --key or --did")
    return claimed, False


def _of_did(document: dict[str, Any], path: Path) -> str:
    try:
        return str(document["verificationMethod"][0]["publicKeyJwk"]["x"])
    except (KeyError, IndexError, TypeError) as error:
        raise EvidenceError(f"{path}: is not a DID document with an Ed25519 key") from error


def caution() -> str:
    """Return what to say when a document was only checked against the key that it names itself."""
    return (
        "Nothing in it was changed since it was signed. Who signed it is its own claim:"
        " check again with --did and the issuer's /.well-known/did.json."
    )
