"""Negotiations, transfers and catalogs on the command line, with two serving participants; the provider decides by hand."""

import contextlib
import dataclasses
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from connector.peers.operator import OperatorClient
from connector.settings import Settings
from tests.support.dataspace import rules
from tests.support.participants import enrol
from tests.support.processes import ORCHARD, free_port, served

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
DATASET = {"id": "urn:dataset:algebra", "title": "Algebra", "offer": {"@id": "urn:offer:algebra", **rules()}}


@dataclasses.dataclass
class Place:
    """A participant: its folder, and how to serve it."""

    settings: Settings
    running: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)

    def serve(self) -> None:
        """Start serving and wait until it is ready."""
        folder, url = self.settings.folder, self.settings.server.public_url
        self.running.enter_context(served([str(ORCHARD), "serve", str(folder)], url, "/health/ready", folder / "log"))

    def run(self, *arguments: str, fails: bool = False) -> str:
        """Run a command over this participant's folder; return what it prints."""
        room, *rest = arguments
        where = (
            [room, rest[0], str(self.settings.folder), *rest[1:]]
            if room in ROOMS
            else [room, str(self.settings.folder), *rest]
        )
        done = subprocess.run([ORCHARD, *where], capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode != 0) is fails, done.stdout + done.stderr
        return done.stderr if fails else done.stdout

    def read(self, *arguments: str) -> Any:
        """Run a command that prints JSON; return it."""
        return json.loads(self.run(*arguments, "--json"))

    def get(self, path: str) -> Any:
        """Ask the management API itself: a command takes a second to start."""
        token = self.settings.management.token_file.read_text().strip()
        with contextlib.closing(OperatorClient(self.settings.server.public_url, token)) as client:
            return client.get("/management" + path)

    def until(self, path: str, holds: Callable[[Any], object]) -> Any:
        """Wait until what the management API says holds; return it."""
        deadline = time.monotonic() + 60
        while not holds(found := self.get(path)):
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
        return found


ROOMS = frozenset({"negotiation", "transfer", "peer"})


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, Place]]:
    """Serve a consumer and a provider that know each other."""
    folder: Path = tmp_path_factory.mktemp("commands")
    consumer = Place(enrol(folder / "lab", folder / "space", name="lab", port=free_port(), role="ai-provider"))
    provider = Place(enrol(folder / "school", folder / "space", name="school", port=free_port()))
    file = provider.settings.file
    text = file.read_text().replace('# "automatic" agrees', "# 'automatic' agrees")
    file.write_text(text.replace('approval = "automatic"', 'approval = "manual"'))
    with consumer.running, provider.running:
        consumer.serve()
        provider.serve()
        consumer.run("peer", "add", provider.settings.server.public_url)
        token = provider.settings.management.token_file.read_text().strip()
        with contextlib.closing(OperatorClient(provider.settings.server.public_url, token)) as client:
            client.post("/management/datasets", DATASET)
        yield consumer, provider


def _asked(consumer: Place, provider: Place) -> tuple[str, str]:
    """Ask for the dataset; return both sides' ids."""
    said = consumer.run(
        "negotiate", provider.settings.server.public_url, "--dataset", DATASET["id"], "--seconds", "0", fails=True
    )
    assert "it waits for" in said
    pid = consumer.get("/negotiations?state=REQUESTED&limit=1")["negotiations"][0]["pid"]
    return pid, consumer.until(f"/negotiations/{pid}", lambda one: one["peer_pid"])["peer_pid"]


def test_a_catalog_is_shown_searched_and_read_again(pair: tuple[Place, Place]) -> None:
    """What the peer offers now, what is kept of all catalogs, and how reading them went."""
    consumer, provider = pair
    assert DATASET["id"] in consumer.run("catalog", provider.settings.server.public_url)
    consumer.run("catalog", "--refresh")
    consumer.until("/catalog/datasets?text=algebra", lambda page: page["datasets"])
    found = consumer.read("catalog", "--text", "algebra")
    assert (found[0]["participant_id"], found[0]["dataset_id"]) == (provider.settings.participant.id, DATASET["id"])
    shown = consumer.run("catalog")
    assert provider.settings.participant.id in shown
    assert "1 datasets" in shown
    assert "No participant has shown us" in consumer.run("catalog", "--text", "astrology")


def test_a_provider_counters_then_the_consumer_ends_it(pair: tuple[Place, Place], tmp_path: Path) -> None:
    """List, counter, show, terminate with a reason: both sides tell the same story."""
    consumer, provider = pair
    pid, peer_pid = _asked(consumer, provider)
    listed = provider.run("negotiation", "list", "--state", "REQUESTED", "--dataset", DATASET["id"])
    assert peer_pid in listed
    assert "it is our turn" in listed
    terms = tmp_path / "terms.json"
    terms.write_text(json.dumps({"@id": "urn:offer:other", **rules(constraints=[_CONSTRAINT])}))
    assert "OFFERED" in provider.run("negotiation", "counter", peer_pid, str(terms))
    consumer.until(f"/negotiations/{pid}", lambda one: one["state"] == "OFFERED")
    assert "TERMINATED" in consumer.run("negotiation", "terminate", pid, "--reason", "too narrow for us")
    provider.until(f"/negotiations/{peer_pid}", lambda one: one["state"] == "TERMINATED")
    shown = provider.run("negotiation", "show", peer_pid)
    assert "too narrow for us" in shown
    assert "History:" in shown
    events = [json.loads(line) for line in provider.run("negotiation", "watch", peer_pid, "--json").splitlines()]
    assert [event["state"] for event in events] == ["REQUESTED", "OFFERED", "TERMINATED"]


_CONSTRAINT = {"leftOperand": "count", "operator": "lteq", "rightOperand": 3}


def test_a_contract_by_hand_and_transfers_that_do_not_start(pair: tuple[Place, Place]) -> None:
    """Approve; a transfer that the provider refuses, and what the consumer is shown of it; commands out of turn."""
    consumer, provider = pair
    pid, peer_pid = _asked(consumer, provider)
    assert "AGREED" in provider.run("negotiation", "approve", peer_pid)
    ended = consumer.until(f"/negotiations/{pid}", lambda one: one["state"] == "FINALIZED")
    agreement_id = ended["agreement_id"]
    refused = consumer.read("transfer", "start", agreement_id, "--format", "HttpData-PULL")["pid"]
    found = consumer.until(f"/transfers/{refused}", lambda one: one["state"] == "TERMINATED")
    assert (found["delivery"]["last_status"], found["delivery"]["last_code"]) == (400, "refused")
    shown = consumer.run("transfer", "show", refused)
    assert "Given up: TransferRequestMessage" in shown
    assert "the peer answered 400 refused" in shown
    open_one = consumer.read("transfer", "start", agreement_id)["pid"]
    assert "it waits for the peer" in consumer.run("transfer", "list", "--state", "REQUESTED")
    assert "not allowed" in consumer.run("transfer", "suspend", open_one, "--reason", "wait", fails=True)
    assert "not allowed" in consumer.run("transfer", "resume", open_one, fails=True)
    assert "not allowed" in consumer.run("transfer", "complete", open_one, fails=True)
    assert "TERMINATED" in consumer.run("transfer", "terminate", open_one, "--reason", "no longer needed")


def test_a_peer_that_is_down_is_told_on_the_command_line(pair: tuple[Place, Place]) -> None:
    """The last attempt, why it failed and the next try; when the peer is back, the message arrives by itself."""
    consumer, provider = pair
    agreement_id = consumer.read("agreements")[0]["id"]
    provider.running.close()
    pid = consumer.read("transfer", "start", agreement_id)["pid"]
    consumer.until(f"/transfers/{pid}", lambda one: one["delivery"]["last_attempt_at"])
    shown = consumer.run("transfer", "show", pid)
    assert "TransferRequestMessage is queued; tried" in shown
    assert "cannot be reached" in shown
    assert "next try at" in shown
    assert "next try at" in consumer.run("transfer", "list", "--state", "REQUESTED")
    provider.serve()
    consumer.until(f"/transfers/{pid}", lambda one: one["peer_pid"])
