"""The kit's part without the kit: a counterparty that plays one sequence against the connector under test.

Same app, room, store, seed and script as ``make tck``; only the transport is in memory, and time moves when the script
says so. Messages are written out by hand the way the kit writes them, so that our codec does not judge itself.
"""

import dataclasses
import itertools
import json
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from connector.drivers.wire import DSP_PATH
from connector.storage.database import Database
from contracts.ports import PeerAnswer
from contracts.processes import OutboxRow
from contracts.service import ContractService
from contracts.shapes import CONTEXT
from tests.conformance.dsp import seed
from tests.conformance.dsp.behaviour import WAIT_SECONDS
from tests.conformance.dsp.under_test import PARTICIPANT, TOKEN, lay_contracts, open_app, write_settings
from tests.support.dataspace import Bell, Clock

KIT_URL = "http://127.0.0.1:8083"
_PORT = 8282
_HEADERS = {"Authorization": f"Bearer {TOKEN}"}
_RULES = [{"action": "use", "constraint": []}]

# word → (path below the process, @type, what it needs besides @context, @id, @type and both pids)
_NEGOTIATION: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "request": ("/request", "ContractRequestMessage", ("offer",)),
    "offer": ("/offers", "ContractOfferMessage", ("offer",)),
    "accepted": ("/events", "ContractNegotiationEventMessage", ("eventType",)),
    "agreement": ("/agreement", "ContractAgreementMessage", ("agreement",)),
    "verification": ("/agreement/verification", "ContractAgreementVerificationMessage", ()),
    "finalized": ("/events", "ContractNegotiationEventMessage", ("eventType",)),
    "termination": ("/termination", "ContractNegotiationTerminationMessage", ("code", "reason")),
}
_TRANSFER: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "request": ("/request", "TransferRequestMessage", ("agreementId", "format", "callbackAddress")),
    "start": ("/start", "TransferStartMessage", ()),
    "suspension": ("/suspension", "TransferSuspensionMessage", ("code", "reason")),
    "completion": ("/completion", "TransferCompletionMessage", ()),
    "termination": ("/termination", "TransferTerminationMessage", ("code", "reason")),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sequence:
    """One of the kit's sequences: its id, and what is done, in words (see :meth:`ScriptedKit.play`)."""

    name: str
    script: str

    @property
    def negotiates(self) -> bool:
        """Whether it is about a negotiation; else about a transfer."""
        return self.name.startswith("CN")

    @property
    def consumes(self) -> bool:
        """Whether the connector under test is the consumer."""
        return "_C:" in self.name

    @property
    def number(self) -> str:
        """The four digits of its id."""
        return self.name.rpartition(":")[2].replace("-", "")


class Bench:
    """The connector under test: its work is done when asked for, and its messages are kept in ``inbox``.

    ``opposite`` is the pid that its counterparty answers a first message with.
    """

    def __init__(self, folder: Path, database: Database) -> None:
        """Lay it over a migrated database."""
        self.inbox: deque[tuple[str, dict[str, Any]]] = deque()
        self.opposite = ""
        self.clock, self.bell = Clock(), Bell()
        settings = write_settings(folder, port=_PORT, database_url=database.url)
        self.service: ContractService = lay_contracts(
            settings, database, calls=self, doorbell=self.bell, clock=self.clock
        )
        seed.sow(self.service, KIT_URL, now=self.clock())
        app = open_app(settings, self.service, kit_url=KIT_URL, clock=self.clock)
        self.client = TestClient(app, base_url=settings.server.public_url, headers=_HEADERS)

    def call(
        self, method: str, url: str, *, audience: str, body: bytes | None = None, max_bytes: int | None = None
    ) -> PeerAnswer:
        """Take a message as the kit does: 200 without a content type, and a body only where a process begins."""
        assert (method, audience) == ("POST", seed.KIT), "the connector had to ask where we stand"
        assert url.startswith(KIT_URL + "/")
        message = json.loads(body or b"")
        self.inbox.append((url.removeprefix(KIT_URL), message))
        if "providerPid" in message:
            return PeerAnswer(status=200, body=b"")
        begun = {"consumerPid": message["consumerPid"], "providerPid": self.opposite, "state": "REQUESTED"}
        return PeerAnswer(status=200, body=json.dumps({"@context": [CONTEXT], **begun}).encode())

    def work(self) -> None:
        """Do what is to be done now."""
        while self.bell.work:
            work = self.bell.work.popleft()
            if not isinstance(work, OutboxRow):
                self.service.act(*work)
            elif (following := self.service.delivery.attempt(work)) is not None:
                self.bell.row(following)

    def let(self, seconds: float) -> None:
        """Let time pass and do what has fallen due."""
        self.clock.advance(seconds)
        for row in self.service.delivery.lease_due(100):
            self.bell.row(row)
        for due in self.service.delivery.due_behaviours(100):
            self.bell.act(*due)
        self.work()


class ScriptedKit:
    """The counterparty of one sequence."""

    def __init__(self, bench: Bench, sequence: Sequence) -> None:
        """Stand opposite the connector on the bench."""
        self.bench, self.sequence = bench, sequence
        self.inbox, self.client = bench.inbox, bench.client
        self._words = _NEGOTIATION if sequence.negotiates else _TRANSFER
        self._folder = "/negotiations" if sequence.negotiates else "/transfers"
        self._numbers = itertools.count(1)
        self._message_ids: set[str] = set()
        self.own_pid, self.peer_pid = f"urn:kit:{sequence.name}", ""
        bench.opposite = self.own_pid

    # The stages

    def play(self) -> None:
        """Play the script, then see that nothing more comes.

        ``begin``: ask the connector to begin. ``send WORD STATE``: our message is taken and leads there. ``comes WORD
        STATE``: after its wait, and not before, the connector sends just this and is there. ``refused WORD STATE``:
        our message gets a 4xx other than 404 with the typed body, and nothing at all has changed.
        """
        for stage in self.sequence.script.split("; "):
            verb, *words = stage.split()
            getattr(self, f"_{verb}")(*words)
        at_rest = self._state()
        self.bench.let(10 * WAIT_SECONDS)
        assert not self.inbox
        assert self._state() == at_rest

    def _begin(self) -> None:
        if self.sequence.negotiates:
            name = f"ACNC{self.sequence.number}"
            wish = {"datasetId": name, "offerId": f"offer{name}"}
            path = "/kit/negotiations"
        else:
            wish = {"agreementId": f"ATPC{self.sequence.number}", "format": seed.FORMAT}
            path = "/kit/transfers"
        begun = self.client.post(path, json={"providerId": seed.KIT, "connectorAddress": KIT_URL, **wish})
        assert begun.status_code == 200
        self.bench.work()
        sent = self._take("request", first=True)
        self.peer_pid = sent["consumerPid"]
        if self.sequence.negotiates:
            assert sent["offer"]["@id"] == wish["offerId"]
        else:
            assert (sent["agreementId"], sent["format"]) == (wish["agreementId"], wish["format"])
        assert self._state() == "REQUESTED"

    def _send(self, word: str, state: str) -> None:
        first = word == "request" and not self.peer_pid
        answer = self._post(word)
        assert answer.status_code == (201 if first else 200), answer.text
        said = answer.json()
        assert said["@context"] == [CONTEXT]
        assert said["@type"] == ("ContractNegotiation" if self.sequence.negotiates else "TransferProcess")
        if first:
            self.peer_pid = said["providerPid"]
        assert said["state"] == state
        assert {said["consumerPid"], said["providerPid"]} == {self.own_pid, self.peer_pid}
        assert self._state() == state
        self.bench.work()
        assert not self.inbox, "the script must wait before it acts"

    def _comes(self, word: str, state: str) -> None:
        self.bench.let(WAIT_SECONDS + 0.001)
        sent = self._take(word)
        assert not self.inbox
        if word in ("accepted", "finalized"):
            assert sent["eventType"] == word.upper()
        assert self._state() == state

    def _refused(self, word: str, state: str) -> None:
        before = self._everything()
        answer = self._post(word)
        assert 400 <= answer.status_code < 500
        assert answer.status_code != 404
        said = answer.json()
        assert said["@context"] == [CONTEXT]
        assert said["@type"] == ("ContractNegotiationError" if self.sequence.negotiates else "TransferError")
        assert said["code"]
        assert said["reason"]
        assert {"consumerPid", "providerPid"} <= set(said)
        assert self._everything() == before
        assert self._state() == state
        self.bench.work()
        assert not self.inbox

    # What they are made of

    def _take(self, word: str, *, first: bool = False) -> dict[str, Any]:
        path, body = self.inbox.popleft()
        where, kind, needed = self._words[word]
        assert path == self._folder + ("" if first else f"/{self.own_pid}") + where
        assert body["@context"] == [CONTEXT]
        assert body["@type"] == kind
        assert set(needed) <= set(body)
        assert body["@id"] not in self._message_ids, "every message has an id of its own"
        self._message_ids.add(body["@id"])
        if not first:
            assert {body["consumerPid"], body["providerPid"]} == {self.own_pid, self.peer_pid}
        return body

    def _post(self, word: str) -> Any:
        where = self._words[word][0]
        process = f"/{self.peer_pid}" if self.peer_pid else ""
        return self.client.post(f"{DSP_PATH}{self._folder}{process}{where}", json=self._message(word))

    def _message(self, word: str) -> dict[str, Any]:
        _, kind, needed = self._words[word]
        pids = (self.peer_pid, self.own_pid) if self.sequence.consumes else (self.own_pid, self.peer_pid)
        known = dict(zip(("consumerPid", "providerPid"), pids, strict=True))
        message = {"@context": [CONTEXT], "@id": f"{self.own_pid}:{next(self._numbers)}", "@type": kind}
        message |= {name: pid for name, pid in known.items() if pid}
        if word == "request" and not self.peer_pid:
            message["callbackAddress"] = KIT_URL
        if "code" in needed:
            message["code"] = "1"
        match word:
            case "request" | "offer" if self.sequence.negotiates:
                message["offer"] = self._offer(counter=bool(self.peer_pid))
            case "request":
                message |= {"agreementId": f"ATP{self.sequence.number}", "format": seed.FORMAT}
            case "agreement":
                message |= {"agreement": self._agreement(), "callbackAddress": KIT_URL}
            case "accepted" | "finalized":
                message["eventType"] = word.upper()
        return message

    def _offer(self, *, counter: bool) -> dict[str, Any]:
        name = f"{'ACNC' if self.sequence.consumes else 'ACN'}{self.sequence.number}"
        offer_id = f"offer{name}" if self.sequence.consumes else seed.offer_id(name)
        parties = {"assigner": seed.KIT, "assignee": PARTICIPANT} if counter else {}
        return {"@id": offer_id, "@type": "Offer", "target": name, "permission": _RULES, **parties}

    def _agreement(self) -> dict[str, Any]:
        return {
            "@id": f"{self.own_pid}:agreement",
            "@type": "Agreement",
            "target": f"ACNC{self.sequence.number}",
            "assigner": seed.KIT,
            "assignee": PARTICIPANT,
            "permission": _RULES,
            "timestamp": "2026-03-01T12:00:00.123456789Z",
        }

    def _state(self) -> str:
        answer = self.client.get(f"{DSP_PATH}{self._folder}/{self.peer_pid}")
        assert answer.status_code == 200
        return str(answer.json()["state"])

    def _everything(self) -> tuple[Any, ...]:
        store = self.bench.service.store
        process = store.negotiation if self.sequence.negotiates else store.transfer
        return process(self.peer_pid), store.events(self.peer_pid), store.deliveries(self.peer_pid)
