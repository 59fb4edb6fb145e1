"""Agreements and transfer processes as the learning room sees them, and what a transfer process does for learning."""

from collections.abc import Callable
from datetime import datetime

from connector.identity.transfers import TransferGrant, TransferTokens
from contracts.errors import IllegalCommandError, PolicyDeniedError, TransferRefusedError
from contracts.messages import DataAddress
from contracts.processes import AgreementRecord, Transfer
from contracts.service import ContractService
from contracts.states import Role
from contracts.transfers import TransferState
from learning import provide
from learning.errors import PeerError
from learning.jobs import Job, JobState, Member, Participation, ParticipationState, PlanState, ReceivedPlan
from learning.node import Node
from learning.ports import AgreementTerms, Records, Store, TransferView
from policies.errors import PolicyFormatError
from policies.gate import requirements
from policies.parse import parse_policy

FORMAT = "FederatedTraining"
ENDPOINT_TYPE = "https://w3id.org/orchard/FederatedTraining"
AUTHORIZATION = "authorization"


class TrainingContracts:
    """``learning.ports.Contracts`` over the contracts room."""

    def __init__(self) -> None:
        """Wait for :meth:`serve`: the service's transfers ask the learning room, which asks these contracts."""
        self._opened: ContractService | None = None

    def serve(self, service: ContractService) -> None:
        """Read agreements and command transfers of ``service`` from now on."""
        self._opened = service

    @property
    def _service(self) -> ContractService:
        if self._opened is None:
            raise RuntimeError("serve() comes first")
        return self._opened

    def agreement(self, agreement_id: str) -> AgreementTerms | None:
        """Return an agreement that is finalized; its policy's validity is asked anew at each round."""
        record = self._service.store.agreement(agreement_id)
        if record is None:
            return None
        return terms_of(record)

    def request_transfer(self, agreement_id: str) -> str:
        """Start a transfer process with format FederatedTraining and return our pid for it."""
        try:
            return self._service.transfers.request(agreement_id, FORMAT).pid
        except PolicyDeniedError as error:
            raise PeerError(f"the agreement may not be used now: {error}", code=error.code, final=True) from error

    def transfer(self, transfer_pid: str) -> TransferView | None:
        """Return a transfer process by our pid."""
        found = self._service.store.transfer(transfer_pid)
        if found is None:
            return None
        address = found.data_address
        return TransferView(
            transfer_pid=found.pid,
            state=str(found.state),
            endpoint=address.endpoint if address else None,
            token=address.property(AUTHORIZATION) if address else None,
            reason="; ".join(found.reasons) or None,
        )

    def complete_transfer(self, transfer_pid: str) -> None:
        """Complete a transfer process that is still running; one that is over stays as it is."""
        found = self._service.store.transfer(transfer_pid)
        if found is None or found.state in (TransferState.COMPLETED, TransferState.TERMINATED):
            return
        try:
            if found.state is TransferState.STARTED:
                self._service.transfers.complete(transfer_pid)
            else:
                self._service.transfers.terminate(transfer_pid, ("the job that asked for it has ended",))
        except IllegalCommandError:
            # The peer ended it meanwhile.
            return


def terms_of(record: AgreementRecord) -> AgreementTerms:
    """Return what the learning room needs to know of an agreement.

    A policy that cannot be read gives no purpose, so that every plan under it is refused.
    """
    agreement = record.agreement
    try:
        needs = requirements(parse_policy(dict(agreement.rules) | {"@id": agreement.id, "@type": "Agreement"}))
    except PolicyFormatError:
        needs = None
    purpose = needs.purposes[0] if needs and len(needs.purposes) == 1 else None
    return AgreementTerms(
        agreement_id=agreement.id,
        provider=agreement.assigner,
        consumer=agreement.assignee,
        dataset_id=agreement.target,
        purpose=purpose,
        cohort_floor=(needs.cohort_floor or 0) if needs else 0,
    )


def start_address(store: Store, tokens: TransferTokens, public_url: str) -> Callable[..., DataAddress | None]:
    """Return what a provider answers to a FederatedTraining request: its learning API, once a plan is approved."""

    def answer(record: AgreementRecord, transfer: Transfer) -> DataAddress | None:
        if transfer.format != FORMAT:
            raise TransferRefusedError(f"format {transfer.format} is not offered; ask for {FORMAT}")
        consumer, agreement_id = record.agreement.assignee, record.agreement.id
        plans = [
            plan
            for plan in store.run("plan.list", lambda records: records.select(ReceivedPlan))
            if (plan.agreement_id, plan.consumer) == (agreement_id, consumer)
        ]
        approved = [plan for plan in plans if plan.state is PlanState.APPROVED]
        if not approved:
            if plans and all(plan.state is PlanState.REFUSED for plan in plans):
                raise TransferRefusedError(f"the training plan was refused: {plans[-1].reason}")
            return None
        newest = max(approved, key=lambda plan: plan.received_at)
        token = tokens.issue(
            TransferGrant(
                transfer_pid=transfer.pid,
                agreement_id=agreement_id,
                plan_digest=newest.plan_digest,
                consumer=consumer,
            )
        )
        properties = ((AUTHORIZATION, token), ("authType", "orchard-transfer"))
        return DataAddress(endpoint_type=ENDPOINT_TYPE, endpoint=f"{public_url}/learning", properties=properties)

    return answer


def on_transfer_state(node: Node, now: Callable[[], datetime]) -> Callable[[AgreementRecord, Transfer], None]:
    """Return what learning does when a transfer process comes to a state: the job goes on, or our part in it ends."""

    def told(_record: AgreementRecord, transfer: Transfer) -> None:
        if transfer.role is Role.CONSUMER:
            node.store.run("job.wake", lambda records: _wake(records, transfer.pid, now()))
        elif transfer.state in (TransferState.TERMINATED, TransferState.COMPLETED):
            reason = "; ".join(transfer.reasons) or "no reason given"
            for job_id in node.store.run("part.of_transfer", lambda records: _parts(records, transfer.pid)):
                provide.stop(node, job_id, f"the transfer process was {transfer.state.lower()}: {reason}")

    return told


def _wake(records: Records, transfer_pid: str, now: datetime) -> None:
    for member in records.select(Member):
        job = records.get(Job, member.job_id) if member.transfer_pid == transfer_pid else None
        if job is not None and job.state is JobState.RECRUITING:
            records.enqueue("learning.recruit", job.job_id, now)


def _parts(records: Records, transfer_pid: str) -> list[str]:
    over = (ParticipationState.ENDED, ParticipationState.STOPPED)
    parts = records.select(Participation)
    return [part.job_id for part in parts if part.transfer_pid == transfer_pid and part.state not in over]
