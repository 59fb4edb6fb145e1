"""The demo plays learners and guardians: over HTTP, at a school's consent endpoints, with tokens of its issuer.

Who refuses follows from the learner's id, so that a run repeats. Expression ids follow from what is said, so that
playing twice says nothing twice.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from connector.demo.issuers import DemoIssuer
from connector.peers.client import PeerClient, PeerResponse, below
from policies.ages import Person, guardian_until

_COUNTRY = "DE"
_VERIFICATION = "school-register"
_EVIDENCE = "demo"
_BATCH = 2_000
_IMPORT_SECONDS = 120.0
_ACTIVE = frozenset({"granted", "renewed"})
_CREATED, _OK = 201, 200
_SHARES = 10_000


class DemoLearnerError(Exception):
    """A consent endpoint did not take what the demo's learners said; the message says which and why."""

    code = "demo-learners"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learner:
    """A made-up learner. ``birth_year`` None: the institution vouches that they are of age."""

    subject: str
    birth_year: int | None = None
    guardian: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """A notice as the consent endpoint shows it: what a learner is asked."""

    notice_id: str
    version: int
    dataset_id: str
    purpose: str
    languages: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Played:
    """What a school's learners said; numbers for the demo's own terminal, ids for a later withdrawal."""

    granted: tuple[Learner, ...]
    refused: tuple[Learner, ...]
    by_guardian: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Withdrawn:
    """Who withdrew, by the school's own pseudonym, and the receipt they were given."""

    pseudonym: str
    record_id: str
    receipt: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConsentDesk:
    """One school's consent endpoints as its learners reach them.

    Attributes:
        client: the HTTP client; it must be allowed to call ``address`` (see :func:`learners_client`).
        address: the school's public URL.
        issuer: whose tokens the school trusts for learners.
        now: aware UTC time.
    """

    client: PeerClient
    address: str
    issuer: DemoIssuer
    now: Callable[[], datetime]

    def asked(self, dataset_id: str) -> Asked:
        """Return what learners are asked about a dataset.

        Raises:
            DemoLearnerError: the school has published no notice about it.
        """
        found = self._json(self.client.request("GET", self._url("/notices"), audience=None), _OK)
        for notice in found:
            if notice["dataset_id"] == dataset_id:
                return Asked(
                    notice_id=notice["notice_id"],
                    version=notice["version"],
                    dataset_id=dataset_id,
                    purpose=notice["purposes"][0]["purpose"],
                    languages=tuple(notice["languages"]),
                )
        raise DemoLearnerError(f"{self.address} asks no learner about {dataset_id}: publish the dataset first")

    def play(self, asked: Asked, learners: Iterable[Learner], *, refuse_share: float = 0.1) -> Played:
        """Let each learner answer, or the guardian of one who is not of age.

        Raises:
            DemoLearnerError: an answer was not taken.
        """
        granted: list[Learner] = []
        refused: list[Learner] = []
        guardians = 0
        for learner in learners:
            refuses = refuses_for(learner.subject, refuse_share)
            guardians += self._speaks_for(learner) is not None
            self._answer(asked, learner, "refuse" if refuses else "grant")
            (refused if refuses else granted).append(learner)
        return Played(granted=tuple(granted), refused=tuple(refused), by_guardian=guardians)

    def import_all(self, asked: Asked, subjects: Sequence[str], *, refuse_share: float = 0.1) -> Played:
        """Send the answers of adult learners as the institution's list; the evidence says that it is a demo.

        Raises:
            DemoLearnerError: an entry was refused.
        """
        learners = [Learner(subject=subject) for subject in subjects]
        for batch in _batches(learners, _BATCH):
            rows = [self._row(asked, learner, refuse_share) for learner in batch]
            answer = self._call(
                "/import", self._token("demo-lms", "consent:manage"), {"records": rows}, _IMPORT_SECONDS
            )
            said = self._json(answer, _OK)
            if said["refused"]:
                first = next(item for item in said["results"] if item["outcome"] == "refused")
                raise DemoLearnerError(f"{self.address} refused {said['refused']} imported consents: {first['detail']}")
        refused = tuple(learner for learner in learners if refuses_for(learner.subject, refuse_share))
        granted = tuple(learner for learner in learners if not refuses_for(learner.subject, refuse_share))
        return Played(granted=granted, refused=refused, by_guardian=0)

    def withdraw(self, asked: Asked, learner: Learner) -> Withdrawn:
        """Let one learner (or their guardian) withdraw what was granted.

        Raises:
            DemoLearnerError: there is nothing to withdraw, or it was not taken.
        """
        header = self._person(learner)
        records = self._json(
            self.client.request("GET", self._url("/records"), audience=None, headers={"authorization": header}), _OK
        )
        for record in records:
            about = (record["dataset_id"], record["purpose"])
            if about == (asked.dataset_id, asked.purpose) and record["state"] in _ACTIVE:
                body = {"event_id": _event_id("withdraw", record["record_id"], str(record["updated_at"]))}
                said = self._json(self._call(f"/records/{record['record_id']}/withdraw", header, body), _OK)
                return Withdrawn(
                    pseudonym=said["record"]["subject"], record_id=record["record_id"], receipt=said["receipt"]
                )
        raise DemoLearnerError(f"this learner of {self.address} has nothing to withdraw")

    def _answer(self, asked: Asked, learner: Learner, decision: str) -> None:
        body = {
            "event_id": _event_id(decision, asked.notice_id, str(asked.version), learner.subject),
            "decision": decision,
            "notice_id": asked.notice_id,
            "notice_version": asked.version,
            "language": _language(asked, learner.subject),
            "purpose": asked.purpose,
            "subject": learner.subject,
        }
        self._json(self._call("/records", self._person(learner), body), _CREATED)

    def _row(self, asked: Asked, learner: Learner, refuse_share: float) -> dict[str, Any]:
        decision = "refuse" if refuses_for(learner.subject, refuse_share) else "grant"
        return {
            "event_id": _event_id(decision, asked.notice_id, str(asked.version), learner.subject),
            "subject": learner.subject,
            "decision": decision,
            "notice_id": asked.notice_id,
            "notice_version": asked.version,
            "language": _language(asked, learner.subject),
            "purpose": asked.purpose,
            "expressed_at": self.now().isoformat(),
            "country": _COUNTRY,
            "attested_adult": True,
            "evidence_ref": _EVIDENCE,
        }

    def _speaks_for(self, learner: Learner) -> str | None:
        """Return who answers for a learner: their guardian while a guardian's answer lasts, else nobody."""
        until = guardian_until(Person(country=_COUNTRY, birth_year=learner.birth_year))
        return learner.guardian if until is not None and self.now() < until else None

    def _person(self, learner: Learner) -> str:
        born = {"country": _COUNTRY, **({"birth_year": learner.birth_year} if learner.birth_year is not None else {})}
        guardian = self._speaks_for(learner)
        if guardian is None:
            return self._token(learner.subject, "learner", born)
        ward = {"sub": learner.subject, **born, "verification": _VERIFICATION, "evidence_ref": _EVIDENCE}
        return self._token(guardian, "guardian", {"country": _COUNTRY, "birth_year": 1980, "guardian_of": [ward]})

    def _token(self, subject: str, scope: str, claims: Mapping[str, Any] | None = None) -> str:
        return self.issuer.authorization(subject, scope, self.now(), claims)

    def _call(self, path: str, header: str, body: Mapping[str, Any], timeout: float | None = None) -> PeerResponse:
        headers = {"authorization": header}
        return self.client.request("POST", self._url(path), audience=None, json=body, headers=headers, timeout=timeout)

    def _json(self, answer: PeerResponse, *expected: int) -> Any:
        if answer.status not in expected:
            raise DemoLearnerError(f"{self.address} answered {answer.status} to a learner: {_detail(answer)}")
        return answer.json()

    def _url(self, path: str) -> str:
        return f"{self.address}/consent{path}"


def learners_client(addresses: Iterable[str], **options: Any) -> PeerClient:
    """Return a client for the consent endpoints below these addresses; ``options`` are those of PeerClient."""
    allowed = tuple(addresses)
    return PeerClient(issuer=_Unsigned(), permits=lambda url: any(below(url, one) for one in allowed), **options)


def read_roster(path: Path) -> list[Learner]:
    """Return the learners of a generated school's ``roster.json``."""
    entries = json.loads(path.read_text(encoding="utf-8"))["learners"]
    return [
        Learner(subject=entry["subject"], birth_year=entry["birth_year"], guardian=entry["guardian"])
        for entry in entries
    ]


def refuses_for(subject: str, share: float) -> bool:
    """Say whether a learner refuses: always the same one, about ``share`` of all."""
    return int.from_bytes(hashlib.sha256(f"refuses {subject}".encode()).digest()[:8]) % _SHARES < share * _SHARES


def choose_leaver(played: Played) -> Learner:
    """Return who will withdraw later: a learner who granted and answers alone, if there is one.

    Raises:
        DemoLearnerError: nobody granted.
    """
    if not played.granted:
        raise DemoLearnerError("nobody granted, so nobody can withdraw")
    return next((learner for learner in played.granted if learner.guardian is None), played.granted[0])


class _Unsigned:
    """Learners are no participants: their calls carry their own tokens."""

    def authorization(self, audience: str) -> str:
        """Refuse to make a participant's header."""
        raise DemoLearnerError(f"a learner does not call as a participant for {audience}")


def _event_id(*parts: str) -> str:
    return "demo-" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40]


def _language(asked: Asked, subject: str) -> str:
    return asked.languages[hashlib.sha256(subject.encode()).digest()[0] % len(asked.languages)]


def _batches(items: Sequence[Learner], size: int) -> Iterator[Sequence[Learner]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _detail(answer: PeerResponse) -> str:
    body = answer.json()
    return str(body.get("detail") or body.get("title")) if isinstance(body, dict) else "no reason given"
