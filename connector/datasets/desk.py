"""What a command needs to publish: the participant's own database and keys, opened for a moment."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from connector.datasets.folder import DatasetFolder
from connector.datasets.publication import Publisher
from connector.identity.files import read_secret, read_signer
from connector.settings import Settings
from connector.storage.consents import SqlConsentStore
from connector.storage.contracts import ContractStore
from connector.storage.database import Database
from connector.storage.migrate import require_current
from policies.service import ConsentService


def consent_secret(settings: Settings) -> bytes:
    """Return the secret behind learners' pseudonyms, as every process of this participant uses it.

    Raises:
        IdentityFileError: missing, empty, or open to others.
        ValueError: it is not hexadecimal.
    """
    return bytes.fromhex(read_secret(settings.consent.pseudonym_key))


@contextmanager
def open_publisher(settings: Settings, *, now: Callable[[], datetime]) -> Iterator[Publisher]:
    """Give a publisher over the participant's database, which may be in use by its other processes.

    Raises:
        IdentityFileError: a key is missing.
        SchemaVersionError: the database must be migrated first.
        DatabaseUnavailableError: it cannot be opened.
    """
    participant = settings.participant
    consents_signer = read_signer(settings.identity.key, participant.id)
    secret = consent_secret(settings)
    database = Database(settings.storage.database_url, pool_size=1)
    try:
        require_current(database)
        consents = ConsentService(
            store=SqlConsentStore(database),
            signer=consents_signer,
            secret=secret,
            now=now,
            new_id=lambda: f"urn:uuid:{uuid.uuid4()}",
        )
        yield Publisher(
            folder=DatasetFolder(settings),
            participant_id=participant.id,
            participant_name=participant.organisation,
            store=ContractStore(database),
            consents=consents,
            now=now,
        )
    finally:
        database.close()
