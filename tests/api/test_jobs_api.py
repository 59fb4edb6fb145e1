"""What operators see and do about plans, jobs and their own part in others' jobs."""

import json
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from connector.http.jobs import jobs_router
from connector.http.learning import learning_problem
from connector.http.problems import install_problem_handlers
from connector.identity.errors import UnauthorizedError
from connector.identity.operators import OperatorIdentity
from learning.errors import LearningError
from policies.canonical import sha256_hex
from policies.signing import verify
from tests.support.federation import COLLECTOR, Federation, Member, open_federation, plan_payload, school

WRITE = {"authorization": "Bearer write"}
READ = {"authorization": "Bearer read"}


class Operators:
    """Takes ``Bearer read`` and ``Bearer write`` at their word."""

    def verify(self, header: str | None) -> OperatorIdentity:
        scopes = {"Bearer read": {"read"}, "Bearer write": {"read", "write"}}.get(header or "")
        if scopes is None:
            raise UnauthorizedError("token-missing", "an operator's token is needed")
        return OperatorIdentity(name="operator", scopes=frozenset(scopes))


def desk(member: Member) -> TestClient:
    """Return a client of a participant's management API for jobs."""
    app = FastAPI()
    app.state.operators = Operators()
    app.include_router(jobs_router(member.node))
    install_problem_handlers(app)
    app.add_exception_handler(LearningError, learning_problem)
    return TestClient(app, headers=WRITE)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Federation, str]]:
    """Give a federation and its completed job."""
    with open_federation(tmp_path_factory.mktemp("jobs"), 3) as federation:
        job = federation.finish(federation.start(rounds=1))
        yield federation, job.job_id


def test_an_operator_starts_and_follows_a_job(tmp_path_factory: pytest.TempPathFactory) -> None:
    """From a plan's digest and agreements to a job that is seen to run, and is cancelled once."""
    with open_federation(tmp_path_factory.mktemp("start"), 2) as federation:
        client = desk(federation.collector)
        plan = client.post("/management/plans", json=plan_payload())
        digest = plan.json()["plan_digest"]
        assert plan.status_code == 201
        assert client.get(f"/management/plans/{digest}").json() == plan.json()
        signed = plan.json()["document"]
        assert verify("training-plan", signed, federation.collector.node.signer.public_key)["rounds"] == 2
        agreements = [f"urn:agreement:{school(number)}" for number in (1, 2)]
        job = client.post("/management/jobs", json={"plan_digest": digest, "agreements": agreements})
        job_id = job.json()["job_id"]
        assert (job.status_code, job.json()["state"]) == (201, "RECRUITING")
        for path in ("model", "report"):
            answer = client.get(f"/management/jobs/{job_id}/{path}")
            assert (answer.status_code, answer.json()["code"]) == (409, "job-not-complete")
        federation.settle(until=lambda: federation.job(job_id).round == 2)
        seen = client.get(f"/management/jobs/{job_id}").json()
        assert (seen["state"], [member["state"] for member in seen["members"]]) == ("RUNNING", ["ACTIVE", "ACTIVE"])
        assert seen["rounds"][0]["contributors"] == [school(1), school(2)]
        for _ in range(2):
            cancelled = client.post(f"/management/jobs/{job_id}/cancel", json={"reason": "enough seen"})
            assert (cancelled.json()["state"], cancelled.json()["reason"]) == ("CANCELLED", "enough seen")


@pytest.mark.parametrize(
    ("agreements", "status", "code"),
    [
        ([f"urn:agreement:{school(1)}"], 403, "too-few-agreements"),
        ([f"urn:agreement:{school(1)}"] * 2, 403, "same-provider-twice"),
        ([f"urn:agreement:{school(1)}", "urn:agreement:nobody"], 404, "not-found"),
        ([], 422, "invalid-request"),
    ],
)
def test_a_job_that_cannot_begin_is_refused_at_once(
    done: tuple[Federation, str], agreements: list[str], status: int, code: str
) -> None:
    """Too few agreements, one provider twice, or an agreement that is not in force: said before anybody is asked."""
    federation, job_id = done
    body = {"plan_digest": federation.job(job_id).plan_digest, "agreements": agreements}
    answer = desk(federation.collector).post("/management/jobs", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_plan_that_contradicts_itself_is_refused(done: tuple[Federation, str]) -> None:
    """The problem names the field."""
    answer = desk(done[0].collector).post("/management/plans", json=plan_payload(rounds=0))
    assert (answer.status_code, answer.json()["code"]) == (400, "bad-plan")
    assert "rounds" in answer.json()["detail"]


def test_the_model_and_the_signed_report_can_be_fetched(done: tuple[Federation, str]) -> None:
    """The model is the bytes whose digest the job names; the report verifies with the collector's key."""
    federation, job_id = done
    client = desk(federation.collector)
    model = client.get(f"/management/jobs/{job_id}/model")
    assert sha256_hex(model.content) == client.get(f"/management/jobs/{job_id}").json()["model"]
    report = client.get(f"/management/jobs/{job_id}/report").json()
    payload = verify("training-report", report, federation.collector.node.signer.public_key)
    assert payload["weights"] == sha256_hex(model.content)


def test_the_tree_can_be_read_long_after_the_job(done: tuple[Federation, str]) -> None:
    """Seats and manifest are shown even when the manifest's own time is over."""
    federation, job_id = done
    federation.clock.advance(10 * 86400)
    tree = desk(federation.collector).get(f"/management/jobs/{job_id}/tree")
    assert tree.status_code == 200
    assert sorted(tree.json()["seats"]) == sorted(tree.json()["contributors"]) == [school(n) for n in (1, 2, 3)]
    assert tree.json()["collector"] == COLLECTOR


def test_a_jobs_events_are_its_timeline_and_end_with_it(done: tuple[Federation, str]) -> None:
    """Server-sent events give each line once, from where the reader left off, and then say how the job ended."""
    federation, job_id = done
    client = desk(federation.collector)
    lines = client.get(f"/management/jobs/{job_id}").json()["timeline"]
    assert [line["number"] for line in lines] == list(range(1, len(lines) + 1))
    text = client.get(f"/management/jobs/{job_id}/events", params={"after": len(lines) - 1}).text
    last, end = text.strip().split("\n\n")
    assert last.startswith(f"id: {len(lines)}\nevent: completed\n")
    assert json.loads(end.split("data: ")[1]) == {"state": "COMPLETED", "reason": None}


def test_jobs_are_listed_by_state(done: tuple[Federation, str]) -> None:
    """The list can be narrowed to one state."""
    federation, job_id = done
    client = desk(federation.collector)
    assert [job["job_id"] for job in client.get("/management/jobs", params={"state": "COMPLETED"}).json()] == [job_id]
    assert client.get("/management/jobs", params={"state": "RUNNING"}).json() == []


def test_a_provider_sees_its_part_with_its_own_card(done: tuple[Federation, str]) -> None:
    """What a provider's data measured and cost is shown to its own operator, without any secret of the part."""
    federation, job_id = done
    client = desk(federation.members[school(1)])
    part = client.get(f"/management/participations/{job_id}").json()
    assert (part["state"], [entry["state"] for entry in part["rounds"]]) == ("ENDED", ["DONE", "DONE"])
    assert part["rounds"][0]["card"]["test"]["count"] > 0
    assert not {"sealing_key", "beacon_reveal", "approval"} & set(part)
    assert [entry["rounds"] for entry in client.get("/management/participations").json()] == [[]]


def test_a_provider_decides_a_plan_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A pending plan is approved or refused; the same decision again is no error, the other one is."""
    with open_federation(tmp_path_factory.mktemp("decide"), 1) as federation:
        by_hand = federation.join(school(2), automatic_approval=False)
        federation.start()
        federation.settle(3.0)
        client = desk(by_hand)
        (pending,) = client.get("/management/received-plans").json()
        assert pending["state"] == "PENDING"
        url, asked = f"/management/received-plans/{pending['plan_digest']}", {"agreement_id": pending["agreement_id"]}
        for _ in range(2):
            refused = client.post(f"{url}/refuse", params=asked, json={"reason": "not this year"})
            assert (refused.json()["state"], refused.json()["reason"]) == ("REFUSED", "not this year")
        assert client.post(f"{url}/approve", params=asked, json={}).status_code == 409
        nowhere = client.post(f"/management/received-plans/{'ab' * 32}/approve", params=asked, json={})
        assert nowhere.status_code == 404


def test_a_provider_leaves_a_job(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Stopping a part ends it at once with the operator's reason; stopping it again changes nothing."""
    with open_federation(tmp_path_factory.mktemp("leave"), 2) as federation:
        job_id = federation.start()
        federation.settle(until=lambda: federation.job(job_id).state == "RUNNING")
        client = desk(federation.members[school(1)])
        for reason in ("we stop here", "again"):
            part = client.post(f"/management/participations/{job_id}/stop", json={"reason": reason}).json()
            assert (part["state"], part["reason"]) == ("STOPPED", "we stop here")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/management/plans"),
        ("POST", "/management/weights"),
        ("POST", "/management/jobs"),
        ("POST", "/management/jobs/j/cancel"),
        ("POST", "/management/received-plans/d/approve?agreement_id=a"),
        ("POST", "/management/received-plans/d/refuse?agreement_id=a"),
        ("POST", "/management/participations/j/stop"),
    ],
)
def test_what_changes_something_needs_the_scope_write(done: tuple[Federation, str], method: str, path: str) -> None:
    """A reader may not change anything, and nobody may without a token."""
    client = desk(done[0].collector)
    assert client.request(method, path, json={}, headers=READ).status_code == 403
    assert client.request(method, path, json={}, headers={"authorization": ""}).status_code == 401


@pytest.mark.parametrize(
    "path", ["plans/x", "jobs/x", "jobs/x/model", "jobs/x/report", "jobs/x/tree", "jobs/x/events", "participations/x"]
)
def test_what_is_not_there_is_a_404_problem(done: tuple[Federation, str], path: str) -> None:
    """An unknown plan, job or part is a problem with a stable code."""
    answer = desk(done[0].collector).get(f"/management/{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
    assert answer.headers["content-type"] == "application/problem+json"
