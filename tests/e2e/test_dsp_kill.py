"""kill -9 of a serving participant at each commit of a negotiation: after a restart it comes to the same end."""

import contextlib
import dataclasses
import http.client
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from connector.settings import Settings
from tests.support.crashing import ORDER
from tests.support.participants import enrol
from tests.support.processes import free_port, read_json

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
RULES = {
    "permission": [
        {
            "action": "use",
            "constraint": [
                {
                    "leftOperand": "purpose",
                    "operator": "eq",
                    "rightOperand": "https://w3id.org/dpv#AcademicResearch",
                }
            ],
        }
    ]
}
DATASET = {"id": "urn:dataset:algebra", "title": "Algebra", "offer": {"@id": "urn:offer:algebra", **RULES}}
STEPS = {
    "consumer": {"negotiation.begin": 1, "outbox.sent": 2, "negotiation.receive": 2},
    "provider": {"negotiation.open": 1, "outbox.sent": 2, "negotiation.receive": 1},
}
CASES = [
    (victim, name, nth, when)
    for victim, steps in STEPS.items()
    for name, count in steps.items()
    for nth in range(1, count + 1)
    for when in ("before", "after")
]


@dataclasses.dataclass
class Killable:
    """A participant that is started, killed and started again."""

    settings: Settings
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it is ready."""
        with (self.settings.folder / "log").open("ab") as log:
            command = [sys.executable, "-m", "tests.support.crashing", str(self.settings.folder)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                read_json(self.settings.server.public_url + "/health/ready")
                return
            assert time.monotonic() < deadline, (self.settings.folder / "log").read_text()[-2000:]
            time.sleep(0.02)

    def order(self, transaction: str, nth: int, when: str) -> None:
        """Say where to die."""
        said = json.dumps({"transaction": transaction, "nth": nth, "when": when})
        (self.settings.folder / ORDER).write_text(said)

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Send a request as the operator."""
        token = self.settings.management.token_file.read_text().strip()
        connection = http.client.HTTPConnection("127.0.0.1", self.settings.server.port, timeout=30)
        with contextlib.closing(connection):
            headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            said = answer.read()
        assert answer.status < 300, said
        return json.loads(said)

    def rows(self, statement: str) -> list[Any]:
        """Read the database."""
        place = self.settings.storage.database_url.removeprefix("sqlite:///")
        with contextlib.closing(sqlite3.connect(place)) as connection:
            return connection.execute(statement).fetchall()

    def stop(self) -> None:
        """Kill it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Killable]]:
    folder = tmp_path_factory.mktemp("kill")
    found = {}
    for name in ("consumer", "provider"):
        found[name] = Killable(enrol(folder / name, folder / "space", name=name, port=free_port()))
    try:
        for one in found.values():
            one.start()
        for one, other in (("consumer", "provider"), ("provider", "consumer")):
            found[one].call("POST", "/management/peers", {"address": found[other].settings.server.public_url})
        found["provider"].call("POST", "/management/datasets", DATASET)
        yield found
    finally:
        for one in found.values():
            one.stop()


@pytest.mark.parametrize(("victim", "transaction", "nth", "when"), CASES)
def test_a_killed_participant_comes_to_the_same_end(
    both: dict[str, Killable], victim: str, transaction: str, nth: int, when: str
) -> None:
    """Whichever commit it dies at: FINALIZED on both sides once, one agreement, and no message under two ids."""
    consumer, provider = both["consumer"], both["provider"]
    before = len(consumer.rows("SELECT pid FROM dsp_processes"))
    both[victim].order(transaction, nth, when)
    wanted = {
        "participant_id": provider.settings.participant.id,
        "dataset_id": DATASET["id"],
        "offer": DATASET["offer"],
    }
    with contextlib.suppress(OSError, http.client.HTTPException):
        consumer.call("POST", "/management/negotiations", wanted)
    process = both[victim].process
    assert process is not None
    process.wait(timeout=60)
    both[victim].start()
    if len(consumer.rows("SELECT pid FROM dsp_processes")) == before:
        # It died before anything was written: the operator saw no answer, and asks again.
        assert (transaction, when) == ("negotiation.begin", "before")
        consumer.call("POST", "/management/negotiations", wanted)
    deadline = time.monotonic() + 60
    while any(one.rows("SELECT 1 FROM dsp_processes WHERE state != 'FINALIZED'") for one in both.values()):
        assert time.monotonic() < deadline, consumer.rows("SELECT step, status, attempts, last_answer FROM dsp_outbox")
        time.sleep(0.05)
    pairs = [set(one.rows("SELECT id, digest FROM dsp_agreements")) for one in both.values()]
    assert pairs[0] == pairs[1]
    assert len(pairs[0]) == len(consumer.rows("SELECT pid FROM dsp_processes")) == before + 1
    for one, other in ((consumer, provider), (provider, consumer)):
        assert one.rows("SELECT pid, step FROM dsp_outbox GROUP BY pid, step HAVING count(*) > 1") == []
        sent = {name for (name,) in one.rows("SELECT message_id FROM dsp_outbox")}
        taken = {name for (name,) in other.rows("SELECT message_id FROM dsp_receipts")}
        assert sent == taken
