"""One participant's learning node: its keys, its ports and its clock, handed to every function of the three roles."""

import dataclasses
from collections.abc import Callable
from datetime import datetime, timedelta

from learning.ports import Blobs, Contracts, Gate, Peers, Snapshots, Store, Trainer
from policies.signing import Signer


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemberFacts:
    """What a membership credential says, once the data-space authority's signature on it has been checked."""

    participant_id: str
    name: str
    organisation: str
    address: str
    public_key: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """Everything a role needs; nothing in it changes while the process runs."""

    participant_id: str
    organisation: str
    signer: Signer
    membership: str = dataclasses.field(repr=False)
    # The secret that rounding streams and pairwise secrets are derived from: 32 bytes, kept beside the signing key.
    secret: bytes = dataclasses.field(repr=False)
    check_membership: Callable[[str], MemberFacts]
    store: Store
    blobs: Blobs
    peers: Peers
    contracts: Contracts
    gate: Gate
    snapshots: Snapshots
    trainer: Trainer
    now: Callable[[], datetime]
    new_id: Callable[[], str]
    automatic_approval: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Later:
    """A task's answer: nothing is wrong, ask again then."""

    due_at: datetime


def later(node: Node, seconds: float) -> Later:
    """Return the answer "ask again in so many seconds"."""
    return Later(due_at=node.now() + timedelta(seconds=seconds))
