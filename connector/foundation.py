"""What every process of a participant stands on: database, identity, peers, from settings. Nothing here loads torch."""

import dataclasses
from datetime import UTC, datetime

from connector.identity.errors import IdentityFileError
from connector.identity.files import read_authority, read_signer, read_text
from connector.identity.membership import Authority, Clock, PeerIdentity, verify_membership
from connector.identity.tokens import IdentityIssuer
from connector.peers.client import PeerClient, Transport
from connector.peers.directory import PeerDirectory, admit
from connector.settings import Settings
from connector.storage.database import Database
from connector.storage.migrate import require_current
from connector.storage.peers import SqlPeerStore
from policies.signing import Signer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Foundation:
    """What every process of a participant stands on."""

    settings: Settings
    now: Clock
    database: Database
    signer: Signer
    authority: Authority
    identity: PeerIdentity
    membership: str
    issuer: IdentityIssuer
    directory: PeerDirectory
    client: PeerClient

    def admit(self, address: str) -> PeerIdentity:
        """Get to know the participant at a typed address; see :func:`connector.peers.directory.admit`."""
        return admit(address, client=self.client, directory=self.directory, authority=self.authority, now=self.now)

    def close(self) -> None:
        """Close connections to peers and to the database."""
        self.client.close()
        self.database.close()


def utc_now() -> datetime:
    """Return the time by this machine's clock; everything below the wiring is given a clock."""
    return datetime.now(UTC)


def lay_foundation(settings: Settings, *, now: Clock = utc_now, transport: Transport | None = None) -> Foundation:
    """Read keys and membership, open the database, know the peers.

    Args:
        settings: the participant's configuration.
        now: the clock.
        transport: how calls to peers travel, if not over sockets.

    Raises:
        IdentityFileError: a key, membership or authority file is missing or does not fit the others.
        UnauthorizedError: the membership does not hold.
        SchemaVersionError: the database must be migrated first.
        DatabaseUnavailableError: it cannot be opened.
    """
    signer = read_signer(settings.identity.key, settings.participant.id)
    authority = read_authority(settings.identity.authority)
    credential = read_text(settings.identity.membership)
    identity = verify_membership(credential, authority, now()).identity
    _check_fit(settings, signer, identity)
    database = Database(settings.storage.database_url)
    try:
        require_current(database)
    except Exception:
        database.close()
        raise
    issuer = IdentityIssuer(signer=signer, membership=credential, now=now)
    directory = PeerDirectory(SqlPeerStore(database))
    for address in settings.peers.addresses:
        directory.allow(address)
    client = PeerClient(
        issuer=issuer,
        permits=directory.permits,
        connect_seconds=settings.peers.connect_seconds,
        read_seconds=settings.peers.read_seconds,
        ca_file=settings.peers.ca_file,
        transport=transport,
    )
    return Foundation(
        settings=settings,
        now=now,
        database=database,
        signer=signer,
        authority=authority,
        identity=identity,
        membership=credential,
        issuer=issuer,
        directory=directory,
        client=client,
    )


def _check_fit(settings: Settings, signer: Signer, identity: PeerIdentity) -> None:
    file = settings.identity.membership
    if identity.public_key != signer.public_key:
        raise IdentityFileError(f"{file}: is bound to another key than {settings.identity.key}")
    if identity.participant_id != settings.participant.id:
        raise IdentityFileError(f"{file}: names another participant than [participant] id in {settings.file}")
    if identity.address != settings.server.public_url:
        raise IdentityFileError(f"{file}: names another address than [server] public_url in {settings.file}")
