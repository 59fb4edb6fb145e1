"""The participants we know: those whose membership we verified, and addresses that an operator typed."""

import threading
from collections.abc import Sequence
from typing import Protocol

from connector.identity.errors import UnauthorizedError
from connector.identity.membership import Authority, Clock, Membership, PeerIdentity, verify_membership
from connector.peers.client import PeerAnswerError, PeerClient, below

DID_DOCUMENT = "/.well-known/did.json"
MEMBERSHIP_MEMBER = "membership"


class PeerStore(Protocol):
    """Keeps verified memberships."""

    def save(self, membership: Membership) -> None:
        """Keep ``membership`` unless a newer one of the same participant is kept."""
        ...

    def get(self, participant_id: str) -> Membership | None:
        """Return what is kept of one participant."""
        ...

    def all(self) -> Sequence[Membership]:
        """Return what is kept, by participant id."""
        ...


class PeerDirectory:
    """Knows participants by id and by address. Safe to share between threads and processes of one participant."""

    def __init__(self, store: PeerStore) -> None:
        """Read from and write to ``store``; addresses are remembered in memory."""
        self._store = store
        self._typed: frozenset[str] = frozenset()
        self._addresses: frozenset[str] = frozenset()
        self._lock = threading.Lock()

    def learn(self, membership: Membership) -> None:
        """Remember a participant whose membership has just been verified."""
        self._store.save(membership)
        with self._lock:
            self._addresses |= {membership.identity.address}

    def allow(self, address: str) -> None:
        """Let requests go to an address that an operator typed, before its participant is known."""
        with self._lock:
            self._typed |= {address}

    def permits(self, url: str) -> bool:
        """Return whether ``url`` lies below the address of a known participant or one that was typed."""
        if any(below(url, address) for address in self._addresses | self._typed):
            return True
        # Another process of this participant may have met it, or its address may have moved.
        known = frozenset(kept.identity.address for kept in self._store.all())
        with self._lock:
            self._addresses = known
        return any(below(url, address) for address in known)

    def get(self, participant_id: str) -> PeerIdentity | None:
        """Return a participant by id."""
        kept = self._store.get(participant_id)
        return kept.identity if kept is not None else None

    def at(self, address: str) -> PeerIdentity | None:
        """Return the participant whose base URL is ``address``."""
        wanted = address.rstrip("/")
        return next((kept.identity for kept in self._store.all() if kept.identity.address == wanted), None)

    def all(self) -> list[Membership]:
        """Return every participant we know, by id."""
        return list(self._store.all())


def admit(
    address: str, *, client: PeerClient, directory: PeerDirectory, authority: Authority, now: Clock
) -> PeerIdentity:
    """Fetch the membership of the participant at a typed ``address``, verify it and remember the participant.

    Raises:
        PeerUnreachableError: there is no participant at that address, or one that belongs elsewhere.
        UnauthorizedError: its membership does not hold.
    """
    base = address.rstrip("/")
    directory.allow(base)
    document = client.fetch_json(base + DID_DOCUMENT)
    credential = document.get(MEMBERSHIP_MEMBER) if isinstance(document, dict) else None
    if not isinstance(credential, str):
        raise PeerAnswerError(f"{base} answered with a DID document that carries no membership")
    membership = verify_membership(credential, authority, now())
    if membership.identity.address != base:
        raise UnauthorizedError("wrong-address", "the membership shown there names another address")
    directory.learn(membership)
    return membership.identity
