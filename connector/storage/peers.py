"""Verified memberships in the database: the store behind :class:`connector.peers.directory.PeerDirectory`."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from connector.identity.membership import Membership, PeerIdentity
from connector.storage.database import Database, Transaction
from connector.storage.statements import Statement
from connector.storage.tables_peers import peers


class SqlPeerStore:
    """Keeps one row per participant: its newest membership."""

    def __init__(self, database: Database) -> None:
        """Keep rows in ``database``."""
        self._database = database
        self._one = Statement(select(peers).where(peers.c.participant_id == bindparam("of_id")), database.way)

    def save(self, membership: Membership) -> None:
        """Keep ``membership`` unless one issued later is kept: an old credential shown again changes nothing."""
        row = _row(membership)

        insert = postgresql.insert if self._database.engine.dialect.name == "postgresql" else sqlite.insert
        wanted = insert(peers).values(row)
        statement = wanted.on_conflict_do_update(
            index_elements=[peers.c.participant_id],
            set_={name: wanted.excluded[name] for name in row},
            where=peers.c.issued_at < wanted.excluded.issued_at,
        )

        def work(transaction: Transaction) -> None:
            transaction.connection.execute(statement)

        self._database.run("save-peer", work)

    def get(self, participant_id: str) -> Membership | None:
        """Return the membership kept of one participant."""
        with self._database.reading() as connection:
            found = self._one.run(connection, of_id=participant_id).first()
        return _membership({**found._asdict(), "roles": json.loads(found.roles)}) if found is not None else None

    def all(self) -> list[Membership]:
        """Return every membership kept, by participant id."""
        with self._database.reading() as connection:
            found = connection.execute(select(peers).order_by(peers.c.participant_id)).mappings().all()
        return [_membership(row) for row in found]


def _row(membership: Membership) -> dict[str, Any]:
    identity = membership.identity
    return {
        "participant_id": identity.participant_id,
        "name": identity.name,
        "organisation": identity.organisation,
        "address": identity.address,
        "public_key": identity.public_key,
        "roles": list(identity.roles),
        "issued_at": int(membership.issued.timestamp()),
        "expires_at": int(membership.expires.timestamp()),
        "credential": membership.credential,
    }


def _membership(row: Mapping[Any, Any]) -> Membership:
    identity = PeerIdentity(
        participant_id=row["participant_id"],
        name=row["name"],
        organisation=row["organisation"],
        address=row["address"],
        public_key=row["public_key"],
        roles=tuple(row["roles"]),
    )
    return Membership(
        identity=identity,
        issued=datetime.fromtimestamp(row["issued_at"], tz=UTC),
        expires=datetime.fromtimestamp(row["expires_at"], tz=UTC),
        credential=row["credential"],
    )
