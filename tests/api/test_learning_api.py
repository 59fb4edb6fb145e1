"""The learning API as a peer meets it: tokens, headers, and refusals with stable codes."""

import base64
import json
from collections.abc import Iterator

import pytest
from fastapi import Response
from starlette.types import Receive, Scope, Send

from connector.http.door import Door
from connector.http.learning import as_problem
from connector.http.limits import DEFAULT_LIMIT
from connector.identity.transfers import TransferGrant
from learning.errors import ConflictError, LearningError, NotYetError, PlanError, RefusedError, UnknownError
from tests.support.federation import COLLECTOR, Federation, open_federation, school
from tests.support.loop import LoopClient


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Federation, str]]:
    """Give a federation of two schools with a job that has come to its second round."""
    with open_federation(tmp_path_factory.mktemp("learning"), 2) as federation:
        job_id = federation.start()
        federation.settle(until=lambda: federation.job(job_id).round == 2)
        yield federation, job_id


def token(federation: Federation, *, plan: str = "", consumer: str = COLLECTOR) -> str:
    """Return a token of the first school's transfer process."""
    (pid,) = [pid for pid, found in federation.transfers.items() if found["agreement"].endswith(school(1))]
    grant = TransferGrant(
        transfer_pid=pid, agreement_id=f"urn:agreement:{school(1)}", plan_digest=plan, consumer=consumer
    )
    return federation.members[school(1)].tokens.issue(grant)


def ask(
    federation: Federation, method: str, path: str, *, caller: str = COLLECTOR, body: object = None, **headers: str
) -> tuple[int, dict[str, str]]:
    """Call the first school; return the status and the body."""
    sent = {"authorization": f"Bearer {caller}", **{name.replace("_", "-"): text for name, text in headers.items()}}
    answer = federation.members[school(1)].client.request(method, f"/learning{path}", json=body, headers=sent)
    return answer.status_code, answer.json()


def header(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


UNKNOWN_CALLERS = [(401, code) for code in ("transfer-token-missing", "transfer-token-foreign", "bad-signature")]
GUARDED = [
    ("GET", ""),
    ("POST", "/reveal"),
    ("POST", "/manifest"),
    ("POST", "/rounds"),
    ("POST", "/rounds/1/attempts/1/set"),
    ("POST", "/rounds/1/attempts/1/release"),
]


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_a_collectors_call_needs_the_transfers_token(running: tuple[Federation, str], method: str, path: str) -> None:
    """Without a token, with another consumer's, or with rubbish the caller is not authenticated."""
    federation, job_id = running
    for given in ({}, {"orchard_transfer": token(federation, consumer=school(2))}, {"orchard_transfer": "rubbish"}):
        status, body = ask(federation, method, f"/jobs/{job_id}{path}", body={}, orchard_opening=header({}), **given)
        assert (status, body["code"]) in UNKNOWN_CALLERS


def test_an_expired_token_only_opens_its_renewal(running: tuple[Federation, str]) -> None:
    """After fifteen minutes a token is refused with a code that says so, and is exchanged for a fresh one."""
    federation, job_id = running
    old = token(federation)
    federation.clock.advance(16 * 60)
    status, body = ask(federation, "GET", f"/jobs/{job_id}", orchard_transfer=old)
    assert (status, body["code"]) == (401, "transfer-token-expired")
    status, body = ask(federation, "POST", "/tokens", body={}, orchard_transfer=old)
    assert status == 200
    assert ask(federation, "GET", f"/jobs/{job_id}", orchard_transfer=body["token"])[0] == 200


@pytest.mark.parametrize(
    ("state", "expected"), [("SUSPENDED", (425, "not-yet")), ("TERMINATED", (403, "transfer-ended"))]
)
def test_a_transfer_that_does_not_run_opens_nothing(
    running: tuple[Federation, str], state: str, expected: tuple[int, str]
) -> None:
    """Suspension means later, termination means no; neither renews a token."""
    federation, job_id = running
    mine = token(federation)
    (found,) = [found for found in federation.transfers.values() if found["agreement"].endswith(school(1))]
    found["state"] = state
    try:
        for method, path in (("GET", f"/jobs/{job_id}"), ("POST", "/tokens")):
            status, body = ask(federation, method, path, body={}, orchard_transfer=mine)
            assert (status, body["code"]) == expected
    finally:
        found["state"] = "STARTED"


def test_a_transfer_is_for_one_plan(running: tuple[Federation, str]) -> None:
    """A token for another plan joins no job of this one."""
    federation, job_id = running
    body = {"job_id": job_id, "plan_digest": federation.job(job_id).plan_digest}
    status, answer = ask(federation, "POST", "/jobs", body=body, orchard_transfer=token(federation, plan="other"))
    assert (status, answer["code"]) == (403, "wrong-plan")


@pytest.mark.parametrize("text", ["%%%", header([1, 2]), header("text"), "e30" * 20_000])
def test_a_header_that_is_not_a_json_object_is_refused(running: tuple[Federation, str], text: str) -> None:
    """Rubbish, other JSON, or too much of it in a signed header is a refusal, not a failure."""
    federation, job_id = running
    status, body = ask(federation, "POST", f"/jobs/{job_id}/rounds/1/attempts/1/uploads", orchard_upload=text)
    assert (status, body["code"]) == (403, "bad-header")


JSON = {"content-type": "application/json"}
ROUND = "/rounds/1/attempts/1"
VECTOR = "application/octet-stream"


@pytest.mark.parametrize(
    ("status", "path", "body", "headers"),
    [
        (202, f"{ROUND}/notices", b'{"uploaded": false, "code": "x", "reason": "y"}', JSON),
        (202, "/rounds/001/attempts/1/notices", b"{}", {"content-type": "Application/JSON; charset=utf-8"}),
        (401, f"{ROUND}/notices", b"{}", JSON | {"authorization": "Bearer"}),
        (401, f"{ROUND}/notices", b"{}", JSON | {"authorization": ""}),
        (401, f"{ROUND}/notices", b"{}", JSON | {"authorization": f"Bearer {school(9)}"}),
        (422, f"{ROUND}/notices", b"[]", JSON),
        (422, f"{ROUND}/notices", b"", JSON),
        (422, f"{ROUND}/notices", b"{", JSON),
        (422, f"{ROUND}/notices", b"{}", {"content-type": "text/plain"}),
        (422, f"{ROUND}/notices", b"{}", {}),
        (422, "/rounds/one/attempts/1/notices", b"{}", JSON),
        (422, "/rounds/1/attempts/1.5/notices", b"{}", JSON | {"authorization": f"Bearer {school(1)}"}),
        (404, "/rounds/77/attempts/1/notices", b"{}", JSON),
        (404, "/rounds/-1/attempts/1/notices", b"{}", JSON),
        (422, f"{ROUND}/shares", b"vector", {"content-type": VECTOR}),
        (403, f"{ROUND}/shares", b"vector", {"orchard-share": "%%%"}),
        (403, f"{ROUND}/shares", b"", {"orchard-share": header({})}),
        (404, f"{ROUND}/nothing", b"{}", JSON),
        (401, f"{ROUND}/set", b"{}", JSON),
        (422, f"{ROUND}/set", b"no JSON", JSON),
        (401, f"{ROUND}/set", b"{}", JSON | {"orchard-transfer": "rubbish"}),
    ],
)
def test_both_ways_answer_alike(
    running: tuple[Federation, str], status: int, path: str, body: bytes, headers: dict[str, str]
) -> None:
    """A node answers with the same words whether its door has served the request or the framework has."""
    federation, job_id = running
    client = federation.members[COLLECTOR].client
    sent = {"authorization": f"Bearer {school(1)}", **headers}
    short = client.post(f"/learning/jobs/{job_id}{path}", content=body, headers=sent)
    prefixed = LoopClient(federation.members[COLLECTOR].app, base_url="http://node.example", root_path="/behind")
    long = prefixed.post(f"/learning/jobs/{job_id}{path}", content=body, headers=sent)
    assert short.status_code == long.status_code == status
    assert short.json() == long.json()
    assert {**short.headers, "content-length": ""} == {**long.headers, "content-length": ""}


def test_the_door_serves_what_is_short_and_reads_nothing_long(running: tuple[Federation, str]) -> None:
    """A short call never reaches the app; one that is long, or does not say, does: there its sender is asked first."""
    federation, job_id = running
    app = federation.members[COLLECTOR].app

    async def behind(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(status_code=418)(scope, receive, send)

    door = Door(behind, routes=app.routes)

    async def inside(scope: Scope, receive: Receive, send: Send) -> None:
        await door({**scope, "app": app}, receive, send)

    client, sent = LoopClient(inside, base_url="http://node.example"), {"authorization": f"Bearer {school(1)}"}
    path = f"/learning/jobs/{job_id}{ROUND}"
    assert client.post(f"{path}/notices", content=b"{}", headers=JSON | sent).status_code == 202
    share = {"orchard-share": header({}), **sent}
    assert client.post(f"{path}/shares", content=bytes(DEFAULT_LIMIT), headers=share).status_code == 403
    assert client.post(f"{path}/shares", content=bytes(DEFAULT_LIMIT + 1), headers=share).status_code == 418
    assert client.post(f"{path}/shares", content=iter([b"vector"]), headers=share).status_code == 418


def test_the_part_shows_the_approval_and_no_secret(running: tuple[Federation, str]) -> None:
    """A collector sees state and signed approval; neither the beacon nonce nor the sealing key's private half."""
    federation, job_id = running
    status, body = ask(federation, "GET", f"/jobs/{job_id}", orchard_transfer=token(federation))
    part = federation.members[school(1)].part(job_id)
    assert (status, body["state"]) == (200, "ACTIVE")
    assert set(body) == {"job_id", "state", "reason", "approval"}
    text = json.dumps(body)
    assert part.sealing_key not in text
    assert part.beacon_reveal not in text


def test_a_plan_is_known_only_to_its_consumer(running: tuple[Federation, str]) -> None:
    """Another participant that names plan and agreement finds nothing, and registers nothing under it."""
    federation, job_id = running
    digest = federation.job(job_id).plan_digest
    path = f"/plans/{digest}/agreements/urn:agreement:{school(1)}"
    assert ask(federation, "GET", path)[1]["state"] == "APPROVED"
    assert ask(federation, "GET", path, caller=school(2)) == ask(
        federation, "GET", path.replace(digest, "ab" * 32), caller=school(2)
    )
    body = {"agreement_id": f"urn:agreement:{school(1)}", "plan": {}}
    assert ask(federation, "POST", "/plans", body=body, caller=school(2))[0] == 404
    status, answer = ask(federation, "POST", "/plans", body=body)
    assert (status, answer["code"]) == (403, "bad-plan")


def test_only_the_collector_ends_a_job(running: tuple[Federation, str]) -> None:
    """Somebody else's word about the end is not heard."""
    federation, job_id = running
    status, body = ask(federation, "POST", f"/jobs/{job_id}/end", body={"reason": "over"}, caller=school(2))
    assert (status, body["code"]) == (404, "not-found")
    assert federation.members[school(1)].part(job_id).state == "ACTIVE"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UnknownError("no such job"), 404),
        (ConflictError("in use"), 409),
        (NotYetError("ask again"), 425),
        (PlanError("malformed"), 400),
        (RefusedError("second-set", "no"), 403),
        (LearningError("ours"), 500),
    ],
)
def test_every_error_of_the_room_has_one_status(error: LearningError, status: int) -> None:
    """One table says what a peer sees; the code goes through."""
    problem = as_problem(error)
    assert (problem.status, problem.code, problem.detail) == (status, error.code, str(error))
