"""The rooms put together over a foundation: contracts, consents, learning, and the doors between them.

API and worker processes stand on the same rooms; they differ in who sends messages, who trains, and what is routed.
"""

import dataclasses
import functools
import hmac
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from connector.consent_services import ConsentManagerStatus, ExternalConsents
from connector.datasets.snapshots import ParticipantSnapshots
from connector.datasets.usage import UsageGate, approved_plan_facts
from connector.datasets.usage_facts import TransferFacts, UseFacts
from connector.drivers.wire import DSP_PATH, PeerWire
from connector.foundation import Foundation
from connector.identity.files import read_secret
from connector.identity.membership import verify_membership
from connector.identity.transfers import TransferTokens
from connector.peers.client import below
from connector.peers.learning import HttpLearningPeers
from connector.peers.typed import typed_client
from connector.policy_log import LoggedPolicyGate
from connector.storage.blobs import FolderBlobs
from connector.storage.consents import SqlConsentStore
from connector.storage.contracts import ContractStore
from connector.storage.decisions import SqlDecisionLog
from connector.storage.duties import SqlDuties
from connector.storage.external_consents import SqlExternalConsents
from connector.storage.learning import SqlLearningStore, WorkBook
from connector.training_contracts import TrainingContracts, on_transfer_state, start_address
from contracts.behaviour import AutomaticBehaviour, AutomaticTransfers, ManualBehaviour
from contracts.peer_catalogs import MAX_CATALOG_BYTES
from contracts.ports import Doorbell
from contracts.service import ContractService, OwnSide, open_contracts
from learning.errors import StepFailedError
from learning.jobs import Participation, ParticipationState
from learning.node import MemberFacts, Node
from learning.ports import Records, SandboxOutput, Trainer
from policies.gate import PolicyGate
from policies.jsonld import compact_to_dsp
from policies.service import ConsentService


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rooms:
    """What routes, drivers and tasks are bound to."""

    contracts: ContractService
    consents: ConsentService
    node: Node
    tokens: TransferTokens
    book: WorkBook
    decisions: SqlDecisionLog
    duties: SqlDuties
    external: ExternalConsents


class NoTrainer:
    """The trainer of an API process: training belongs to workers."""

    def run(self, step: Any, weights: bytes, snapshot: Path) -> SandboxOutput:  # noqa: ARG002 - the port's signature
        """Refuse."""
        raise StepFailedError("no-trainer", "an API process does not train; start a worker", final=False)


def _unheard(_dataset_id: str, _purpose: str) -> None:
    """Tell nobody."""


def lay_rooms(
    foundation: Foundation,
    *,
    ring: Callable[[str, str], None],
    doorbell: Doorbell,
    trainer: Trainer,
    on_consent: Callable[[str, str], None] = _unheard,
) -> Rooms:
    """Return the rooms of one process.

    Args:
        foundation: database, identity, peers.
        ring: the doorbell of learning work (task, key).
        doorbell: the doorbell of DSP messages.
        trainer: what runs a training step here.
        on_consent: told, after the commit, of each (dataset id, purpose) for which somebody's consent has changed.
    """
    settings, now = foundation.settings, foundation.now
    store = SqlLearningStore(foundation.database, ring, now)
    decisions, duties = SqlDecisionLog(foundation.database), SqlDuties(foundation.database)

    def standing(agreement_id: str) -> tuple[str, ...]:
        return duties.standing(agreement_id, now()).refusals

    def consents_changed(dataset_id: str, purpose: str) -> None:
        wake_cohorts(store, dataset_id, now)
        on_consent(dataset_id, purpose)

    external = ExternalConsents(links=SqlExternalConsents(foundation.database), status=consent_status(foundation))
    pseudonym_key = bytes.fromhex(read_secret(settings.consent.pseudonym_key))
    consents = ConsentService(
        store=SqlConsentStore(foundation.database),
        signer=foundation.signer,
        secret=pseudonym_key,
        now=now,
        new_id=new_id,
        on_change=consents_changed,
    )
    training = TrainingContracts()
    contract_store = ContractStore(foundation.database)
    plan_facts = approved_plan_facts(store)
    uses = UseFacts(decisions=decisions, duties=duties, seconds_used=consents.store.seconds_used)
    known = TransferFacts(agreements=contract_store, plan_facts=plan_facts, uses=uses, consents=consents)
    gate = LoggedPolicyGate(gate=PolicyGate(now=now), log=decisions, now=now, standing=standing, more=known.read)
    tokens = TransferTokens(signer=foundation.signer, now=now)
    node = Node(
        participant_id=foundation.identity.participant_id,
        organisation=foundation.identity.organisation,
        signer=foundation.signer,
        membership=foundation.membership,
        secret=hmac.digest(foundation.signer.private_key.private_bytes_raw(), b"orchard/node-secret/1", "sha256"),
        check_membership=lambda credential: member_facts(foundation, credential),
        store=store,
        blobs=FolderBlobs(settings.storage.blobs),
        peers=HttpLearningPeers(foundation.client, foundation.directory),
        contracts=training,
        gate=UsageGate(
            agreements=contract_store,
            consents=consents,
            decisions=decisions,
            now=now,
            plan_facts=plan_facts,
            standing=standing,
            use_facts=uses.read,
            confirm=external.confirm,
        ),
        snapshots=ParticipantSnapshots(settings, pseudonym_key),
        trainer=trainer,
        now=now,
        new_id=new_id,
        automatic_approval=settings.learning.approval == "automatic",
    )
    contracts = open_contracts(
        store=contract_store,
        gate=gate,
        participant=OwnSide(
            id=node.participant_id,
            dsp_url=foundation.identity.address + DSP_PATH,
            roles=tuple(foundation.identity.roles),
        ),
        signer=foundation.signer,
        calls=PeerWire(foundation.client),
        doorbell=doorbell,
        behaviour=ManualBehaviour() if settings.negotiations.approval == "manual" else AutomaticBehaviour(),
        transfer_behaviour=AutomaticTransfers(
            start_address=start_address(store, tokens, foundation.identity.address),
            on_transfer_state=on_transfer_state(node, now),
            retry_seconds=1.0,
        ),
        clock=now,
        ids=new_id,
        # What we asked for ourselves may be long: a page of a catalog.
        expand=functools.partial(compact_to_dsp, seconds=30.0, nodes=200_000, size=MAX_CATALOG_BYTES),
    )
    training.serve(contracts)
    return Rooms(
        contracts=contracts,
        consents=consents,
        node=node,
        tokens=tokens,
        book=WorkBook(foundation.database),
        decisions=decisions,
        duties=duties,
        external=external,
    )


def consent_status(foundation: Foundation) -> ConsentManagerStatus | None:
    """Return how the configured consent service is asked; None where there is none."""
    consent, peers = foundation.settings.consent, foundation.settings.peers
    if consent.service is None:
        return None
    client = typed_client(lambda url: below(url, str(consent.service)), peers.connect_seconds, peers.ca_file)
    token = None if consent.service_token_file is None else read_secret(consent.service_token_file)
    return ConsentManagerStatus(consent.service, token, client, foundation.now)


def new_id() -> str:
    """Return a fresh ``urn:uuid:`` id."""
    return f"urn:uuid:{uuid.uuid4()}"


def member_facts(foundation: Foundation, credential: str) -> MemberFacts:
    """Return what a membership credential says, once the authority's signature has verified; remember the member.

    A member that is vouched for may be called: seats of one job meet in its manifest.
    """
    membership = verify_membership(credential, foundation.authority, foundation.now())
    foundation.directory.learn(membership)
    identity = membership.identity
    return MemberFacts(
        participant_id=identity.participant_id,
        name=identity.name,
        organisation=identity.organisation,
        address=identity.address,
        public_key=identity.public_key,
    )


def wake_cohorts(store: SqlLearningStore, dataset_id: str, now: Callable[[], Any]) -> None:
    """Look again at the jobs that wait for consents to a dataset."""

    def work(records: Records) -> None:
        for part in records.select(Participation):
            if part.dataset_id == dataset_id and part.state is ParticipationState.WAITING_FOR_CONSENT:
                records.enqueue("learning.check_cohort", part.job_id, now())

    store.run("cohort.wake", work)
