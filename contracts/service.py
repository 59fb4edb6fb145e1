"""The room's door: everything that a connector calls, built from the ports it supplies."""

import dataclasses

from contracts.catalog import PAGE_SIZE, CatalogService
from contracts.codec import Expand
from contracts.delivery import DeliveryService, RetryRule
from contracts.negotiation_service import NegotiationService
from contracts.peer_catalogs import PeerCatalogs
from contracts.ports import (
    Behaviour,
    Clock,
    Doorbell,
    Ids,
    Participant,
    PeerCalls,
    PolicyGate,
    Store,
    TransferBehaviour,
)
from contracts.processes import Kind
from contracts.recorder import Recorder
from contracts.transfer_service import TransferService
from policies.signing import Signer


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnSide:
    """Who we are on the wire: our participant id (a DID), the base URL of our DSP endpoints, our membership's roles."""

    id: str
    dsp_url: str
    roles: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContractService:
    """The services of this room over one store."""

    catalog: CatalogService
    negotiations: NegotiationService
    transfers: TransferService
    delivery: DeliveryService
    peer_catalogs: PeerCatalogs
    store: Store
    participant: Participant

    def act(self, kind: Kind, pid: str) -> None:
        """Ask a process's behaviour if it is due (the sender threads call this)."""
        if kind is Kind.NEGOTIATION:
            self.negotiations.act(pid)
        else:
            self.transfers.act(pid)


def open_contracts(
    *,
    store: Store,
    gate: PolicyGate,
    participant: Participant,
    signer: Signer | None,
    calls: PeerCalls,
    doorbell: Doorbell,
    behaviour: Behaviour,
    transfer_behaviour: TransferBehaviour,
    clock: Clock,
    ids: Ids,
    retry: RetryRule | None = None,
    lease_seconds: float = 30.0,
    page_size: int = PAGE_SIZE,
    expand: Expand | None = None,
) -> ContractService:
    """Return the room's services.

    Args:
        store: the participant's database.
        gate: evaluates usage policies.
        participant: who we are on the wire.
        signer: signs our agreements; ``None`` leaves them unsigned.
        calls: sends requests to peers.
        doorbell: is rung after commits.
        behaviour: what we do next in a negotiation.
        transfer_behaviour: what we do next in a transfer.
        clock: aware UTC time.
        ids: fresh ``urn:uuid:`` ids.
        retry: when to try again and when to give up.
        lease_seconds: how long a sender may hold a row; longer than a peer's slowest answer.
        page_size: how many datasets stand on a page of the catalog.
        expand: reads what peers answer under a foreign ``@context`` (``policies.jsonld.compact_to_dsp``).
    """
    recorder = Recorder(clock=clock, ids=ids, doorbell=doorbell, lease_seconds=lease_seconds)
    return ContractService(
        catalog=CatalogService(store=store, gate=gate, participant=participant, clock=clock, page_size=page_size),
        negotiations=NegotiationService(
            store=store, recorder=recorder, gate=gate, behaviour=behaviour, participant=participant, signer=signer
        ),
        transfers=TransferService(
            store=store, recorder=recorder, gate=gate, behaviour=transfer_behaviour, participant=participant
        ),
        delivery=DeliveryService(
            store=store, calls=calls, recorder=recorder, retry=retry or RetryRule(), expand=expand
        ),
        peer_catalogs=PeerCatalogs(calls=calls, ids=ids, expand=expand),
        store=store,
        participant=participant,
    )
