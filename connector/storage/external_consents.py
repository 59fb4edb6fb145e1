"""Which of our records came from another consent service, in SQL."""

import dataclasses
from collections.abc import Sequence

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from connector.storage.database import Database, Transaction
from connector.storage.tables_webhooks import external_consents
from policies.consent import ConsentEvent
from policies.prometheus_x import SOURCE

_BATCH = 500


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExternalConsent:
    """A record of ours and what the other service calls it; ``user_id`` is that service's own id of the person."""

    record_id: str
    subject_ref: str
    dataset_id: str
    purpose: str
    consent_id: str
    user_id: str = dataclasses.field(repr=False)


class SqlExternalConsents:
    """Links on SQLite or PostgreSQL."""

    def __init__(self, database: Database) -> None:
        """Keep them in ``database``, migrated beforehand."""
        self._database = database
        self._insert = postgresql.insert if database.engine.dialect.name == "postgresql" else sqlite.insert

    def link(self, links: Sequence[ExternalConsent]) -> None:
        """Note where records came from."""
        rows = [dataclasses.asdict(link) for link in links]
        statement = self._insert(external_consents)
        wanted = {name: statement.excluded[name] for name in ("consent_id", "user_id")}
        statement = statement.on_conflict_do_update(index_elements=["record_id"], set_=wanted)

        def work(transaction: Transaction) -> None:
            transaction.connection.execute(statement, rows)

        if rows:
            self._database.run("consent.link", work)

    def of(self, dataset_id: str, purpose: str) -> list[ExternalConsent]:
        """Return the links of a dataset and purpose."""
        c = external_consents.c
        statement = select(external_consents).where(c.dataset_id == dataset_id, c.purpose == purpose)
        with self._database.reading() as connection:
            return [ExternalConsent(**row) for row in connection.execute(statement).mappings()]

    def of_consent(self, consent_id: str) -> list[ExternalConsent]:
        """Return the links of one consent of the other service, one a purpose."""
        statement = select(external_consents).where(external_consents.c.consent_id == consent_id)
        with self._database.reading() as connection:
            return [ExternalConsent(**row) for row in connection.execute(statement).mappings()]


def unlink_answered(connection: Connection, events: Sequence[ConsentEvent]) -> None:
    """Forget the other service for records that were answered here since: from then on only we are asked."""
    here = sorted({event.record_id for event in events if event.payload["source"] not in (SOURCE, "provider")})
    for start in range(0, len(here), _BATCH):
        part = here[start : start + _BATCH]
        connection.execute(delete(external_consents).where(external_consents.c.record_id.in_(part)))
