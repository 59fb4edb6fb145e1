"""The composition root of the API process: the rooms, their routes and what runs beside them. Nothing here loads torch."""

import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from connector.app import Wiring
from connector.audit_export import AuditExporter
from connector.consent_exchange import open_exchange
from connector.doorbell import Doorbell
from connector.drivers.crawler import CatalogCrawler
from connector.drivers.outbox import Senders
from connector.drivers.policy_watch import PolicyWatch
from connector.drivers.sweep import WorkSweep
from connector.drivers.webhooks import WebhookSender
from connector.drivers.wire import MembershipPeers
from connector.foundation import Foundation
from connector.http.audit import audit_router
from connector.http.catalogs import catalogs_router
from connector.http.consents import consent_router
from connector.http.datasets import datasets_router
from connector.http.dsp import dsp_router, version_router
from connector.http.health import Probe
from connector.http.jobs import jobs_router
from connector.http.learning import learning_problem, learning_router
from connector.http.negotiations import negotiations_router
from connector.http.peers import peers_router
from connector.http.policies import policies_router
from connector.http.prometheus_x import prometheus_x_router
from connector.http.prometheus_x_exchange import prometheus_x_exchange_router
from connector.http.transfers import transfers_router
from connector.http.wellknown import wellknown_router
from connector.identity.did import did_document
from connector.identity.errors import UnauthorizedError
from connector.identity.files import read_secret
from connector.identity.learners import JwtLearnerVerifier, LearnerIdentity
from connector.identity.operators import OperatorVerifier
from connector.identity.tokens import IdentityVerifier
from connector.peers.greeter import Greeter
from connector.peers.sign_in import token_exchange
from connector.peers.typed import typed_client
from connector.rooms import NoTrainer, Rooms, lay_rooms, new_id
from connector.settings import Settings
from connector.storage.migrate import require_current
from connector.storage.peer_catalogs import SqlCatalogShelf
from connector.storage.peers import SqlPeerStore
from connector.storage.stuck import stuck_messages
from connector.storage.webhooks import SqlWebhooks
from connector.ui.operate_facts import Desk
from connector.ui.site import Site, page_routers
from contracts.crawl import CatalogCrawl, Pace
from learning.errors import LearningError
from policies.jsonld import compact_to_dsp

_BROKER_PORT = 6379


def wire_api(foundation: Foundation) -> Wiring:
    """Return the wiring of the API process over a foundation, which it closes when the app stops."""
    settings = foundation.settings
    verifier = IdentityVerifier(
        participant_id=settings.participant.id,
        authority=foundation.authority,
        now=foundation.now,
        on_verified=foundation.directory.learn,
    )
    operators = OperatorVerifier(
        participant_id=settings.participant.id,
        token=read_secret(settings.management.token_file),
        issuer=settings.management.issuer,
        jwks=settings.management.jwks,
        now=foundation.now,
    )
    doorbell = Doorbell(settings)
    # Listening comes first (connector.cli.serve): nobody else on this machine has the port.
    senders = Senders(clock=foundation.now, holder=f"{socket.gethostname()}:{settings.server.port}")
    watch = PolicyWatch(foundation.now)
    rooms = lay_rooms(foundation, ring=doorbell.ring, doorbell=senders, trainer=NoTrainer(), on_consent=watch.changed)
    senders.serve(rooms.contracts)
    watch.serve(rooms)
    shelf = SqlCatalogShelf(foundation.database)
    crawler = CatalogCrawler(shelf, foundation.directory.all, settings.participant.id, foundation.now)
    pace = Pace(seconds=settings.catalog.crawl_seconds)
    crawler.serve(CatalogCrawl(catalogs=rooms.contracts.peer_catalogs, shelf=shelf, clock=foundation.now, pace=pace))
    webhooks = SqlWebhooks(foundation.database)
    learners = _learners(settings, foundation)
    peers = MembershipPeers(SqlPeerStore(foundation.database))
    exchange, close_exchange = token_exchange(_token_endpoints(settings))
    pages = page_routers(
        Site(
            settings=settings,
            signer=foundation.signer,
            now=foundation.now,
            exchange=exchange,
            consents=rooms.consents,
            name_of=rooms.node.peers.name,
            operators=operators,
            desk=Desk(
                consents=rooms.consents,
                contracts=rooms.contracts.store,
                node=rooms.node,
                stuck=lambda limit: stuck_messages(foundation.database, limit),
                duties=rooms.duties,
                webhooks=webhooks,
                decisions=rooms.decisions,
                name_of=rooms.node.peers.name,
                now=foundation.now,
            ),
        )
    )
    # Routes are tried in this order: those that are asked most stand first.
    routers = (
        learning_router(rooms.node, rooms.tokens, lambda pid: _transfer_state(rooms, pid)),
        wellknown_router(did_document(foundation.identity, foundation.membership)),
        version_router(),
        peers_router(foundation.directory, foundation.admit),
        dsp_router(rooms.contracts, compact_to_dsp),
        datasets_router(rooms.contracts, peers),
        catalogs_router(shelf, crawler.note, crawler.wake, foundation.now),
        negotiations_router(rooms.contracts, peers),
        transfers_router(rooms.contracts),
        prometheus_x_router(rooms.consents, rooms.external, learners),
        prometheus_x_exchange_router(open_exchange(foundation, rooms)),
        consent_router(rooms.consents, learners),
        policies_router(
            rooms.duties,
            webhooks,
            lambda agreement_id: rooms.contracts.store.agreement(agreement_id) is not None,
            foundation.now,
            new_id,
        ),
        audit_router(
            AuditExporter(consents=rooms.consents, decisions=rooms.decisions, duties=rooms.duties, now=foundation.now)
        ),
        jobs_router(rooms.node),
        *pages,
    )
    database = Probe(name="database", check=lambda: require_current(foundation.database), required=True)
    broker = broker_probe(settings)
    return Wiring(
        peers=verifier,
        operators=operators,
        routers=routers,
        drivers=(
            Greeter(settings.peers.addresses, foundation.admit),
            senders,
            doorbell,
            WorkSweep(rooms.book, doorbell.ring, foundation.now),
            watch,
            crawler,
            WebhookSender(
                webhooks,
                # Only operators subscribe addresses, and only subscriptions are called.
                typed_client(lambda _url: True, settings.peers.connect_seconds, settings.peers.ca_file),
                foundation.signer,
                foundation.now,
            ),
        ),
        probes=(database,) if broker is None else (database, broker),
        handlers=((LearningError, learning_problem),),
        closing=(close_exchange, foundation.close),
    )


def _token_endpoints(settings: Settings) -> frozenset[str]:
    given = (settings.consent.token_endpoint, settings.management.token_endpoint)
    return frozenset(url for url in given if url is not None)


def _learners(settings: Settings, foundation: Foundation) -> Callable[[str | None], LearnerIdentity]:
    """Return how learners are recognised: by the configured issuer's tokens, or not at all."""
    if settings.consent.issuer is None or settings.consent.jwks is None:

        def nobody(_header: str | None) -> LearnerIdentity:
            raise UnauthorizedError(
                "no-issuer", "this participant has no issuer of learners' tokens ([consent] issuer)"
            )

        return nobody
    return JwtLearnerVerifier.from_file(
        issuer=settings.consent.issuer,
        jwks=settings.consent.jwks,
        audience=settings.participant.id,
        now=foundation.now,
    ).verify


def _transfer_state(rooms: Rooms, pid: str) -> str | None:
    found = rooms.contracts.store.transfer(pid)
    return None if found is None else str(found.state)


def broker_probe(settings: Settings) -> Probe | None:
    """Return a probe that connects to the broker; None where none is configured."""
    if not settings.broker.url:
        return None
    parts = urlsplit(settings.broker.url)
    host, port = parts.hostname or "127.0.0.1", parts.port or _BROKER_PORT

    def check() -> None:
        with socket.create_connection((host, port), timeout=1.0):
            pass

    return Probe(name="broker", check=check, required=False)
