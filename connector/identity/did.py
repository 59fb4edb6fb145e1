"""The participant's own DID document (did:web, W3C DID 1.0), with its membership credential in it."""

from typing import Any

from connector.identity.jws import public_jwk
from connector.identity.membership import PeerIdentity

_CONTEXT = ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/suites/jws-2020/v1"]


def did_document(identity: PeerIdentity, membership: str) -> dict[str, Any]:
    """Return the document served at ``/.well-known/did.json``; the member ``membership`` is ours."""
    key = f"{identity.participant_id}#key-1"
    return {
        "@context": _CONTEXT,
        "id": identity.participant_id,
        "verificationMethod": [
            {
                "id": key,
                "type": "JsonWebKey2020",
                "controller": identity.participant_id,
                "publicKeyJwk": public_jwk(identity.public_key),
            }
        ],
        "authentication": [key],
        "assertionMethod": [key],
        "service": [
            {
                "id": f"{identity.participant_id}#dsp",
                "type": "DataService",
                "serviceEndpoint": f"{identity.address}/.well-known/dspace-version",
            }
        ],
        "membership": membership,
    }
