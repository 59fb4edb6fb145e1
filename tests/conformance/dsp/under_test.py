"""The connector under test: the app, rooms, store and senders of production, with the kit's identity and script.

What differs from ``connector.wiring``: callers are believed (the kit cannot sign), the behaviour is scripted, learning
and consents are left out, and two routes under ``/kit`` let the kit ask us to begin.
"""

import secrets
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel, ConfigDict, Field

from connector.app import Driver, Wiring, create_app
from connector.drivers.wire import DSP_PATH
from connector.http.dsp import dsp_router, version_router
from connector.identity.development import DevelopmentVerifier
from connector.identity.membership import PeerIdentity
from connector.identity.operators import OperatorVerifier
from connector.settings import Settings
from connector.storage.contracts import ContractStore
from connector.storage.database import Database
from contracts.messages import Offer
from contracts.ports import Doorbell, PeerCalls
from contracts.processes import Counterparty
from contracts.service import ContractService, OwnSide, open_contracts
from policies.gate import PolicyGate
from policies.jsonld import compact_to_dsp
from policies.signing import new_signer
from tests.conformance.dsp import seed
from tests.conformance.dsp.behaviour import ScriptedNegotiations, ScriptedTransfers

TOKEN = "conformance-kit"
PARTICIPANT = "did:web:connector-under-test.example"

_SETTINGS = """\
[participant]
id = "{participant}"
name = "Connector under test"
organisation = "Conformance"
role = "data-provider"

[server]
port = {port}
public_url = "{url}"

[storage]
database_url = "{database}"
"""


class _Trigger(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    provider: str = Field(alias="providerId")
    address: str = Field(alias="connectorAddress")

    @property
    def counterparty(self) -> Counterparty:
        """Whom to begin with."""
        return Counterparty(participant_id=self.provider, address=self.address)


class _Negotiate(_Trigger):
    offer: str = Field(alias="offerId")
    dataset: str = Field(alias="datasetId")


class _Transfer(_Trigger):
    agreement: str = Field(alias="agreementId")
    format: str


def write_settings(folder: Path, *, port: int, database_url: str) -> Settings:
    """Write and read the configuration of a connector that is reached at a port of loopback."""
    text = _SETTINGS.format(
        participant=PARTICIPANT, port=port, url=f"http://127.0.0.1:{port}", database=database_url.replace("\\", "/")
    )
    (folder / "orchard.toml").write_text(text, encoding="utf-8")
    return Settings.load(folder, {})


def lay_contracts(
    settings: Settings, database: Database, *, calls: PeerCalls, doorbell: Doorbell, clock: Callable[[], datetime]
) -> ContractService:
    """Return the contracts room over a migrated database, with the scripted behaviour."""
    own = settings.participant.id
    return open_contracts(
        store=ContractStore(database),
        gate=PolicyGate(now=clock),
        participant=OwnSide(id=own, dsp_url=settings.server.public_url + DSP_PATH),
        signer=new_signer(f"{own}#key"),
        calls=calls,
        doorbell=doorbell,
        behaviour=ScriptedNegotiations(),
        transfer_behaviour=ScriptedTransfers(),
        clock=clock,
        ids=lambda: f"urn:uuid:{uuid.uuid4()}",
    )


def open_app(
    settings: Settings,
    service: ContractService,
    *,
    kit_url: str,
    clock: Callable[[], datetime],
    drivers: tuple[Driver, ...] = (),
    closing: tuple[Callable[[], None], ...] = (),
) -> FastAPI:
    """Return the app; whoever sends the kit's token is the kit, whose callbacks lie below ``kit_url``."""
    kit = PeerIdentity(
        participant_id=seed.KIT, name="Kit", organisation="Kit", address=kit_url, public_key="", roles=()
    )
    operators = OperatorVerifier(
        participant_id=settings.participant.id, token=secrets.token_urlsafe(), issuer=None, jwks=None, now=clock
    )
    wiring = Wiring(
        peers=DevelopmentVerifier({TOKEN: kit}),
        operators=operators,
        routers=(version_router(), dsp_router(service, compact_to_dsp), _triggers(service)),
        drivers=drivers,
        closing=closing,
    )
    return create_app(settings, wiring)


def _triggers(service: ContractService) -> APIRouter:
    router = APIRouter(prefix="/kit")

    @router.post("/negotiations")
    def negotiate(body: _Negotiate) -> dict[str, str]:
        """Ask the kit for a contract."""
        offer = Offer(id=body.offer, target=body.dataset, rules=seed.RULES)
        return {"pid": service.negotiations.request(body.counterparty, offer).pid}

    @router.post("/transfers")
    def transfer(body: _Transfer) -> dict[str, str]:
        """Ask the kit for a transfer."""
        begun = service.transfers.request(body.agreement, body.format, counterparty=body.counterparty)
        return {"pid": begun.pid}

    return router
