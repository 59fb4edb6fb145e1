"""What the kit expects to find: datasets, offers and finished agreements, and the settings that tell it their names."""

from datetime import datetime
from typing import Final

from contracts.agreement import agreement_digest
from contracts.messages import Agreement, Offer, Rules
from contracts.ports import UnitOfWork
from contracts.processes import AgreementRecord, Counterparty, Dataset
from contracts.service import ContractService
from contracts.states import Role

KIT: Final = "TCK_PARTICIPANT"
FORMAT: Final = "HttpData-PULL"
RULES: Final[Rules] = {"permission": [{"action": "use"}]}

# The numbers of the kit's tests, group by group; both roles have the same for transfers.
PROVIDED: Final = ("0101 0102 0103 0104", "0201 0202 0203 0204 0205 0206 0207", "0301 0302 0303 0304")
CONSUMED: Final = ("0101 0102 0103 0104", "0201 0202 0203 0204 0205 0206", "0301 0302 0303 0304 0305 0306")
TRANSFERRED: Final = ("0101 0102 0103 0104 0105", "0201 0202 0203 0204 0205", "0301 0302 0303 0304 0305 0306")
CATALOG: Final = ("0101", "0102")
ABSENT: Final = "0103"


def datasets() -> tuple[Dataset, ...]:
    """Return the datasets of the catalog: one per negotiation that we provide, and those of the catalog's tests."""
    names = [*(f"ACN{number}" for number in _numbers(PROVIDED)), *(f"CAT{number}" for number in CATALOG)]
    return tuple(
        Dataset(
            id=name,
            title=f"Conformance {name}",
            formats=(FORMAT,),
            offer=Offer(id=offer_id(name), target=name, rules=RULES),
        )
        for name in names
    )


def offer_id(dataset_id: str) -> str:
    """Return the id of a dataset's offer, as the kit writes it."""
    return f"CD123:{dataset_id}:456"


def sow(service: ContractService, kit_url: str, *, now: datetime) -> None:
    """Write datasets and agreements; the counterparty of every agreement is the kit at ``kit_url``."""
    service.catalog.publish_all(datasets())
    kit = Counterparty(participant_id=KIT, address=kit_url)
    own = service.participant.id

    def work(uow: UnitOfWork) -> None:
        for number in _numbers(TRANSFERRED):
            uow.add_agreement(_agreement(f"ATP{number}", Role.PROVIDER, assigner=own, assignee=KIT, kit=kit, now=now))
            uow.add_agreement(_agreement(f"ATPC{number}", Role.CONSUMER, assigner=KIT, assignee=own, kit=kit, now=now))

    service.store.run("conformance.sow", work)


def kit_settings(*, kit_url: str, own_url: str, dsp_url: str, participant_id: str, token: str) -> dict[str, str]:
    """Return the kit's properties.

    Args:
        kit_url: where the kit shall listen; without a path.
        own_url: the connector's base URL.
        dsp_url: the base of its DSP endpoints.
        participant_id: its participant id.
        token: the bearer value that the kit shall send.
    """
    own = "dataspacetck.dsp.connector"
    host, _, port = kit_url.removeprefix("http://").partition(":")
    return {
        "dataspacetck.launcher": "org.eclipse.dataspacetck.dsp.system.DspSystemLauncher",
        "dataspacetck.callback.address": kit_url,
        "dataspacetck.host": host,
        "dataspacetck.port": port,
        "dataspacetck.dsp.local.connector": "false",
        "dataspacetck.dsp.default.wait": "10",
        f"{own}.agent.id": participant_id,
        f"{own}.http.url": dsp_url,
        f"{own}.http.base.url": own_url,
        f"{own}.http.headers.authorization": f"Bearer {token}",
        f"{own}.negotiation.initiate.url": f"{own_url}/kit/negotiations",
        f"{own}.transfer.initiate.url": f"{own_url}/kit/transfers",
        **_names(),
    }


def _names() -> dict[str, str]:
    found = {f"CAT_{_split(number)}_DATASETID": f"CAT{number}" for number in (*CATALOG, ABSENT)}
    for number in _numbers(PROVIDED):
        found[f"CN_{_split(number)}_DATASETID"] = f"ACN{number}"
        found[f"CN_{_split(number)}_OFFERID"] = offer_id(f"ACN{number}")
    for number in _numbers(CONSUMED):
        found[f"CN_C_{_split(number)}_DATASETID"] = f"ACNC{number}"
    for number in _numbers(TRANSFERRED):
        for role, prefix in (("TP", "ATP"), ("TP_C", "ATPC")):
            found[f"{role}_{_split(number)}_AGREEMENTID"] = f"{prefix}{number}"
            found[f"{role}_{_split(number)}_FORMAT"] = FORMAT
    return found


def _numbers(groups: tuple[str, ...]) -> list[str]:
    return [number for group in groups for number in group.split()]


def _split(number: str) -> str:
    return f"{number[:2]}_{number[2:]}"


def _agreement(
    name: str, role: Role, *, assigner: str, assignee: str, kit: Counterparty, now: datetime
) -> AgreementRecord:
    agreement = Agreement(id=name, target=f"urn:conformance:{name}", assigner=assigner, assignee=assignee, rules=RULES)
    return AgreementRecord(
        agreement=agreement,
        digest=agreement_digest(agreement),
        role=role,
        counterparty=kit,
        negotiation_pid=f"urn:conformance:negotiation:{name}",
        concluded_at=now,
    )
