"""A consent attached to a data exchange, connector to connector, in the Prometheus-X shapes.

The consent service hands the consent to the provider, which attaches a token to it there, and to the consumer, which
asks the provider for the data. Before anything leaves, the provider lets the service validate the token, asks it for
the consent's *status* (it validates the token of a revoked consent), looks into its own records and asks its policy.
What leaves is never a row: it is where the data may be computed on. As a consumer we take nothing else either.
Source: Prometheus-X dataspace connector 1.10, exchange driven by consent.
"""

import dataclasses
import hmac
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from connector.consent_services import ConsentManagerStatus
from connector.foundation import Foundation
from connector.http.problems import ProblemError
from connector.identity.files import read_text
from connector.identity.membership import PeerIdentity
from connector.peers.client import PeerClient, PeerUnreachableError
from connector.policy_log import LoggedPolicyGate
from connector.rooms import Rooms
from connector.storage.external_consents import ExternalConsent, SqlExternalConsents
from contracts.processes import Dataset
from policies.gate import PolicyGate
from policies.prometheus_x import purposes_of
from policies.prometheus_x_envelope import open_envelope, read_manager_key
from policies.scopes import Scope
from policies.service import ConsentService

PREFIX = "/prometheus-x"
REFERENCE = "https://w3id.org/orchard/ComputeToData"
_OK = range(200, 300)
_SECONDS = 10.0
_MOST_DATA = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConsentExchange:
    """Both roles of the exchange.

    Attributes:
        key: the consent service's public key, as the operator typed it.
        manager: asks the consent service.
        links: which of our records are about its consents.
        consents: our own records.
        dataset: a published dataset by its id.
        gate: the policy gate, which logs.
        peer: a member of the data space by its id.
        client: calls members.
        secret: makes the token of a consent.
        own_id, own_address: this participant.
    """

    key: RSAPublicKey
    manager: ConsentManagerStatus
    links: SqlExternalConsents
    consents: ConsentService
    dataset: Callable[[str], Dataset | None]
    gate: LoggedPolicyGate
    peer: Callable[[str], PeerIdentity | None]
    client: PeerClient
    secret: bytes = dataclasses.field(repr=False)
    own_id: str
    own_address: str

    # Provider

    def export_consent(self, signed: object, encrypted: object) -> None:
        """Take a consent from the service and attach our token to it there."""
        consent = open_envelope(signed, encrypted, self.key)
        self._links(consent)
        if not self.manager.attach(_id(consent), self._token(consent)):
            raise ProblemError(
                502, "consent-service", "The consent service failed", "the consent service did not take our token"
            )

    def export_data(self, signed: object, encrypted: object) -> None:
        """Answer a consumer that holds a consent: check it at its service and here, then say where to compute."""
        consent = open_envelope(signed, encrypted, self.key)
        links = self._links(consent)
        token = consent.get("token")
        if not isinstance(token, str) or not hmac.compare_digest(token.encode(), self._token(consent).encode()):
            raise _refused("the token in this consent is not the one that this provider attached")
        if not self.manager.validate(_id(consent), token):
            raise _refused("the service that keeps this consent does not validate it")
        if not all(self.manager(link) for link in links):
            raise _refused("the service that keeps this consent does not say that it is granted now")
        if not all(link.subject_ref in self.consents.consenting(link.dataset_id, link.purpose) for link in links):
            raise _refused("the consent does not count here: it was withdrawn, has expired, or its notice has changed")
        consumer = self._party(consent, "dataConsumer")
        for link in links:
            self._allowed(link, consumer)
        self._hand_over(consent, links, consumer, {"signedConsent": signed, "encrypted": encrypted})

    # Consumer

    def import_consent(self, endpoint: object, signed: object, encrypted: object) -> None:
        """Take a consent from the service as its consumer, and ask the provider for the data."""
        consent = open_envelope(signed, encrypted, self.key)
        provider = self._party(consent, "dataProvider")
        if not isinstance(endpoint, str) or not endpoint.startswith(f"{provider.address}/"):
            raise _refused("dataProviderEndpoint is not an address of the provider that the consent names")
        body = {"signedConsent": signed, "encrypted": encrypted}
        self._send(endpoint, provider.participant_id, body)

    def import_data(self, caller: PeerIdentity, body: Mapping[str, Any]) -> list[str]:
        """Take what a provider sends: references only; return the ids of the datasets that we may ask to compute on."""
        consent = open_envelope(body.get("signedConsent"), body.get("encrypted"), self.key)
        if self._party(consent, "dataProvider").participant_id != caller.participant_id:
            raise _refused("the consent names another provider")
        if self._party(consent, "dataConsumer").participant_id != self.own_id:
            raise _refused("the consent is for another consumer")
        data = body.get("data")
        listed = data if isinstance(data, list) and 0 < len(data) <= _MOST_DATA else [data]
        if not all(isinstance(item, Mapping) and item.get("@type") == REFERENCE for item in listed):
            raise ProblemError(
                422,
                "no-rows",
                "Rows are not taken",
                "this connector takes no person's data: it computes where data lies",
            )
        purposes = purposes_of(consent)
        if not purposes or not all(self.manager.granted(_user(consent), _id(consent), one) for one in purposes):
            raise _refused("the service that keeps this consent does not say that it is granted now")
        return [str(item["dataset"])[:500] for item in listed if isinstance(item, Mapping) and "dataset" in item]

    # Inside

    def _token(self, consent: Mapping[str, Any]) -> str:
        made = hmac.digest(self.secret, b"orchard/consent-token/1\0" + _id(consent).encode(), "sha256")
        return str(uuid.UUID(bytes=made[:16], version=4))

    def _links(self, consent: Mapping[str, Any]) -> list[ExternalConsent]:
        found = self.links.of_consent(_id(consent))
        if not found:
            detail = "no institution has handed in this consent here, with its notice, language and age"
            raise ProblemError(404, "not-found", "There is no such consent", detail)
        return found

    def _party(self, consent: Mapping[str, Any], name: str) -> PeerIdentity:
        given = consent.get(name)
        identifier = given.get("id", given.get("_id")) if isinstance(given, Mapping) else given
        if identifier == self.own_id:
            return PeerIdentity(
                participant_id=self.own_id,
                name="",
                organisation="",
                address=self.own_address,
                public_key="",
                roles=(),
            )
        found = self.peer(identifier) if isinstance(identifier, str) else None
        if found is None:
            raise _refused(f"{name} is no member of this data space that we know")
        return found

    def _allowed(self, link: ExternalConsent, consumer: PeerIdentity) -> None:
        dataset = self.dataset(link.dataset_id)
        if dataset is None:
            raise _refused("the dataset of this consent is not offered")
        facts = {"assignee": consumer.participant_id, "roles": list(consumer.roles), "purpose": link.purpose}
        said = self.gate.decide(Scope.NEGOTIATION, dataset.offer.document(), facts)
        if not said.allowed:
            raise _refused("; ".join(said.refusals) or "the policy does not allow it")

    def _hand_over(
        self,
        consent: Mapping[str, Any],
        links: list[ExternalConsent],
        consumer: PeerIdentity,
        envelope: Mapping[str, object],
    ) -> None:
        references = [
            {
                "@type": REFERENCE,
                "dataset": link.dataset_id,
                "purpose": link.purpose,
                "endpoint": f"{self.own_address}/dsp/2025-1",
                "format": "FederatedTraining",
            }
            for link in links
        ]
        user = consent.get("consumerUserIdentifier")
        body = {
            **envelope,
            "data": references,
            "user": user.get("identifier") if isinstance(user, Mapping) else user,
            "resource": links[0].dataset_id,
            "apiResponseRepresentation": False,
        }
        self._send(f"{consumer.address}{PREFIX}/data/import", consumer.participant_id, body)

    def _send(self, url: str, audience: str, body: Mapping[str, object]) -> None:
        try:
            answer = self.client.request("POST", url, audience=audience, json=body, timeout=_SECONDS)
        except PeerUnreachableError as error:
            raise ProblemError(502, error.code, "The other connector failed", str(error)) from error
        if answer.status not in _OK:
            detail = f"the other connector answered with status {answer.status}"
            raise ProblemError(502, "peer-answer", "The other connector failed", detail)


def _refused(detail: str) -> ProblemError:
    return ProblemError(403, "consent-refused", "This exchange is refused", detail)


def _id(consent: Mapping[str, Any]) -> str:
    found = consent.get("_id")
    if not isinstance(found, str) or not 0 < len(found) <= 400:  # noqa: PLR2004 - as policies.prometheus_x takes it
        raise _refused("the consent has no id")
    return found


def _user(consent: Mapping[str, Any]) -> str:
    found = consent.get("user")
    return found if isinstance(found, str) else ""


def open_exchange(foundation: Foundation, rooms: Rooms) -> ConsentExchange | None:
    """Return the exchange of a participant with a consent service and its key; None without.

    Raises:
        IdentityFileError: the key cannot be read.
        ConsentFormatError: it is no RSA public key.
    """
    given, manager = foundation.settings.consent.service_key, rooms.external.status
    if given is None or not isinstance(manager, ConsentManagerStatus):
        return None
    own = foundation.signer.private_key.private_bytes_raw()
    return ConsentExchange(
        key=read_manager_key(read_text(given).encode()),
        manager=manager,
        links=rooms.external.links,
        consents=rooms.consents,
        dataset=rooms.contracts.store.dataset,
        gate=LoggedPolicyGate(gate=PolicyGate(now=foundation.now), log=rooms.decisions, now=foundation.now),
        peer=foundation.directory.get,
        client=foundation.client,
        secret=hmac.digest(own, b"orchard/consent-exchange/1", "sha256"),
        own_id=foundation.identity.participant_id,
        own_address=foundation.identity.address,
    )
