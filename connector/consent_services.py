"""Another consent service plugged in: its consents are imported, and asked about again before each round.

An answer is never trusted without its status, and no answer is a no: a service that is away excludes its people.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from urllib.parse import quote

from connector.peers.client import PeerClient, PeerUnreachableError
from connector.storage.external_consents import ExternalConsent, SqlExternalConsents
from policies.codec import parse_import_row
from policies.errors import ConsentFormatError
from policies.imports import import_rows
from policies.people import Expression, ImportResult
from policies.prometheus_x import SOURCE, import_rows_of, still_granted
from policies.service import ConsentService

_AT_ONCE = 8
_SECONDS = 20.0
_EACH_SECONDS = 5.0
_OK, _DONE = 200, range(200, 300)

Status = Callable[[ExternalConsent], bool]


class ConsentManagerStatus:
    """Asks a Prometheus-X consent manager for the status of a consent: ``GET /consents/participants/{user}/{id}``."""

    def __init__(self, base: str, token: str | None, client: PeerClient, now: Callable[[], datetime]) -> None:
        """Ask at ``base``, with ``token`` as the bearer; ``client`` must permit that address."""
        self._base = base.rstrip("/")
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._client = client
        self._now = now

    def __call__(self, link: ExternalConsent) -> bool:
        """Say whether the service confirms the consent now."""
        return self.granted(link.user_id, link.consent_id, link.purpose)

    def granted(self, user_id: str, consent_id: str, purpose: str) -> bool:
        """Say whether the service says that a consent is granted for a purpose now; no answer is a no."""
        url = f"{self._base}/consents/participants/{quote(user_id, safe='')}/{quote(consent_id, safe='')}"
        try:
            answer = self._client.request("GET", url, audience=None, headers=self._headers, timeout=_EACH_SECONDS)
            return answer.status == _OK and still_granted(answer.json(), consent_id, purpose, self._now())
        except PeerUnreachableError:
            return False

    def attach(self, consent_id: str, token: str) -> bool:
        """Attach a provider's token to a consent at the service; say whether it was taken."""
        return self._post(consent_id, "token", token) is not None

    def validate(self, consent_id: str, token: str) -> bool:
        """Say whether the service validates a token. That alone proves nothing: it does so for revoked consents."""
        found = self._post(consent_id, "validate", token)
        return isinstance(found, dict) and found.get("verified") is True

    def _post(self, consent_id: str, what: str, token: str) -> object | None:
        url = f"{self._base}/consents/{quote(consent_id, safe='')}/{what}"
        body, headers = {"token": token}, self._headers
        try:
            answer = self._client.request("POST", url, audience=None, json=body, headers=headers, timeout=_EACH_SECONDS)
            return answer.json() if answer.status in _DONE else None
        except PeerUnreachableError:
            return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExternalConsents:
    """What the gate asks and what institutions import.

    Attributes:
        links: which records came from elsewhere.
        status: asks the service; None where none is configured: then nobody of its people is confirmed.
    """

    links: SqlExternalConsents
    status: Status | None = None

    def confirm(self, dataset_id: str, purpose: str, subjects: frozenset[str]) -> frozenset[str]:
        """Return the subjects without those whose consent another service keeps and does not confirm now."""
        asked = [link for link in self.links.of(dataset_id, purpose) if link.subject_ref in subjects]
        if not asked:
            return subjects
        confirmed = self._ask(asked)
        return subjects - {link.subject_ref for link, said in zip(asked, confirmed, strict=True) if not said}

    def take(self, service: ConsentService, entries: Sequence[object]) -> list[ImportResult]:
        """Import consents of the service, each judged by itself, and remember where they came from."""
        results: list[ImportResult] = []
        for index, entry in enumerate(entries):
            try:
                consent_id, user_id, rows = import_rows_of(entry)
            except ConsentFormatError as error:
                results.append(ImportResult(index=index, outcome="refused", code=error.code, detail=str(error)))
                continue
            found = import_rows(service, rows, _from_service)
            self._link(service, found, consent_id, user_id)
            results += [dataclasses.replace(result, index=index) for result in found]
        return results

    def _ask(self, asked: Sequence[ExternalConsent]) -> list[bool]:
        if self.status is None:
            return [False] * len(asked)
        ask = partial(_in_time, self.status, time.monotonic() + _SECONDS)
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            return list(pool.map(ask, asked))

    def _link(self, service: ConsentService, found: Sequence[ImportResult], consent_id: str, user_id: str) -> None:
        taken = [result.record_id for result in found if result.outcome != "refused"]
        records = service.store.run("consent.linked", lambda unit: [unit.record(record_id) for record_id in taken])
        self.links.link(
            [
                ExternalConsent(
                    record_id=record.record_id,
                    subject_ref=record.subject_ref,
                    dataset_id=record.dataset_id,
                    purpose=record.purpose,
                    consent_id=consent_id,
                    user_id=user_id,
                )
                for record in records
                if record is not None
            ]
        )


def _from_service(row: object) -> Expression:
    return dataclasses.replace(parse_import_row(row), source=SOURCE)


def _in_time(status: Status, deadline: float, link: ExternalConsent) -> bool:
    # A round waits for this: whoever is not confirmed in time is left out of it.
    return time.monotonic() < deadline and status(link)
