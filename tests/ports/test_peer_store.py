"""The store of verified memberships, on both databases."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from connector.identity.membership import Membership, PeerIdentity
from connector.peers.directory import PeerDirectory
from connector.storage.database import Database
from connector.storage.peers import SqlPeerStore

START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
NORTH = Membership(
    identity=PeerIdentity(
        participant_id="did:web:north",
        name="North",
        organisation="North",
        address="https://north.example/orchard",
        public_key="k",
        roles=("data-provider",),
    ),
    issued=START,
    expires=START + timedelta(days=1),
    credential="a.b.c",
)


@pytest.fixture
def store(database: Database) -> SqlPeerStore:
    return SqlPeerStore(database)


def test_a_membership_is_kept_whole(store: SqlPeerStore) -> None:
    """What was saved is returned equal, and nothing for others."""
    store.save(NORTH)
    store.save(NORTH)
    assert store.get("did:web:north") == NORTH
    assert store.all() == [NORTH]
    assert store.get("did:web:south") is None


def test_an_older_credential_changes_nothing(store: SqlPeerStore) -> None:
    """A newer membership replaces an older one, never the other way round."""
    moved = dataclasses.replace(NORTH.identity, address="https://new.example")
    newer = dataclasses.replace(NORTH, identity=moved, issued=START + timedelta(seconds=1))
    store.save(newer)
    store.save(NORTH)
    assert store.get("did:web:north") == newer


def test_a_directory_permits_only_known_addresses(store: SqlPeerStore) -> None:
    """URLs below a known or typed address are permitted, whatever process met the participant; look-alikes are not."""
    directory = PeerDirectory(store)
    assert not directory.permits("https://north.example/orchard/dsp")
    PeerDirectory(store).learn(NORTH)
    assert directory.permits("https://north.example/orchard/dsp")
    assert directory.permits("https://NORTH.example:443/orchard")
    for url in (
        "http://north.example/orchard/dsp",
        "https://north.example:444/orchard/dsp",
        "https://north.example/orchardist",
        "https://north.example/orchard/../admin",
        "https://north.example/orchard/%2e%2E/admin",
        "https://north.example@evil.example/orchard/dsp",
        "https://x@north.example/orchard/dsp",
        "https://north.example.evil.example/orchard",
        "https://north.example:x/orchard",
        "file:///orchard",
        "",
    ):
        assert not directory.permits(url), url
    directory.allow("http://127.0.0.1:8101")
    assert directory.permits("http://127.0.0.1:8101/.well-known/did.json")
