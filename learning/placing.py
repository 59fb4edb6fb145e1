"""A job's manifest as this node has checked it: members, seats, and the context of each round attempt."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from learning.errors import NotYetError, RefusedError
from learning.jobs import Participation
from learning.node import Node
from learning.secagg.errors import ManifestError
from learning.secagg.manifest import Identify, Identity, Manifest, verify_manifest
from policies.canonical import canonical_json

# Before any manifest's end. What does not change is checked once and kept; the time is looked at each time, but not
# for what we signed ourselves, which is read long after its job is over.
_EVER = datetime.min.replace(tzinfo=UTC)


def identify(node: Node) -> Identify:
    """Return the check of an approval's membership credential against the data-space authority."""

    def check(payload: Mapping[str, Any]) -> Identity:
        facts = node.check_membership(str(payload.get("membership")))
        if facts.participant_id != payload.get("participant"):
            raise ManifestError("the approval carries somebody else's membership", sender=facts.participant_id)
        return Identity(participant=facts.participant_id, organisation=facts.organisation, public_key=facts.public_key)

    return check


def manifest_of(node: Node, document: Mapping[str, Any] | None, part: Participation) -> Manifest:
    """Return the manifest of our part in somebody's job, checked byte for byte (once per document), and still in force.

    Raises:
        NotYetError: no manifest has been accepted yet.
        RefusedError: the time that it gives the job is over.
        SecureAggregationError: it does not verify.
    """
    collector = Identity(
        participant=part.consumer, organisation=part.consumer_organisation, public_key=part.consumer_key
    )
    manifest = _checked(node, document, collector)
    if node.now() >= manifest.terms.expires:
        raise RefusedError("manifest-expired", "the time that the manifest gives this job is over")
    return manifest


def own_manifest(node: Node, document: Mapping[str, Any] | None) -> Manifest:
    """Return the manifest of a job of our own, however long ago it was signed."""
    return _checked(
        node,
        document,
        Identity(participant=node.participant_id, organisation=node.organisation, public_key=node.signer.public_key),
    )


def _checked(node: Node, document: Mapping[str, Any] | None, collector: Identity) -> Manifest:
    if document is None:
        raise NotYetError("the job's manifest is not signed yet")
    # Checking costs a signature and a credential per member; the same bytes need it once per process.
    return _verified(_Held(node), canonical_json(document), collector)


class _Held:
    """The node as a cache key: one node, one key."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def __hash__(self) -> int:
        return hash(self.node.participant_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held) and other.node is self.node


@lru_cache(maxsize=64)
def _verified(held: _Held, document: bytes, collector: Identity) -> Manifest:
    return verify_manifest(json.loads(document), collector=collector, identify=identify(held.node), now=_EVER)
