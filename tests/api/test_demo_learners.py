"""The demo's learners at a school's real consent endpoints."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from connector.demo.generator import School, generate
from connector.demo.issuers import JWKS_FILE, create_issuer, open_issuer
from connector.demo.learners import (
    ConsentDesk,
    DemoLearnerError,
    Learner,
    choose_leaver,
    learners_client,
    read_roster,
    refuses_for,
)
from connector.http.consents import consent_router
from connector.http.problems import install_problem_handlers
from connector.identity.learners import JwtLearnerVerifier
from connector.peers.client import AddressRefusedError
from connector.storage.database import Database
from connector.storage.migrate import upgrade
from policies.receipts import verify_receipt
from policies.subjects import subject_ref
from tests.support.consents import DATASET, PURPOSE, ConsentRig, consent_rig, notice
from tests.support.participants import Network

ADDRESS = "http://school.example"
PARTICIPANT = "did:web:school.example"
ISSUER = "https://login.school.example"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """A school's consent endpoints and the demo in front of them."""

    desk: ConsentDesk
    rig: ConsentRig


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Give a school with one notice, and its issuer's key."""
    url = f"sqlite:///{tmp_path / 'o.sqlite'}"
    upgrade(url)
    database = Database(url)
    rig = consent_rig(database)
    rig.service.publish_notice(notice())
    create_issuer(tmp_path)
    verifier = JwtLearnerVerifier.from_file(
        issuer=ISSUER, jwks=tmp_path / JWKS_FILE, audience=PARTICIPANT, now=rig.clock
    )
    app = FastAPI()
    install_problem_handlers(app)
    app.include_router(consent_router(rig.service, verifier.verify))
    network = Network()
    with TestClient(app, base_url=ADDRESS) as http:
        network.apps[ADDRESS] = http
        client = learners_client([ADDRESS], transport=network)
        issuer = open_issuer(tmp_path, issuer=ISSUER, audience=PARTICIPANT)
        yield Scene(desk=ConsentDesk(client=client, address=ADDRESS, issuer=issuer, now=rig.clock), rig=rig)
        client.close()
    database.close()


def test_learners_and_guardians_answer(scene: Scene, tmp_path: Path) -> None:
    """Adults answer for themselves, guardians for minors, some refuse, and exactly those who granted count."""
    generate(tmp_path, schools=[School(name="elm", learners=30, ability=0.0, focus=1.0)])
    learners = read_roster(tmp_path / "elm" / "roster.json")
    asked = scene.desk.asked(DATASET)
    played = scene.desk.play(asked, learners, refuse_share=0.2)
    assert 0 < len(played.refused) < len(played.granted)
    assert 0 < played.by_guardian < 30
    secret = scene.rig.service.secret
    assert scene.rig.service.consenting(DATASET, PURPOSE) == {
        subject_ref(secret, one.subject) for one in played.granted
    }
    assert scene.desk.play(asked, learners, refuse_share=0.2) == played


def test_one_learner_withdraws_and_is_known_by_pseudonym(scene: Scene) -> None:
    """The withdrawal takes effect at once, comes with a receipt that verifies, and names nobody."""
    asked = scene.desk.asked(DATASET)
    subjects = [f"learner-{number}" for number in range(20)]
    played = scene.desk.import_all(asked, subjects, refuse_share=0.0)
    leaver = choose_leaver(played)
    before = scene.rig.service.consenting(DATASET, PURPOSE)
    scene.rig.clock.advance(minutes=1)
    gone = scene.desk.withdraw(asked, leaver)
    assert before - scene.rig.service.consenting(DATASET, PURPOSE) == {gone.pseudonym}
    assert leaver.subject not in repr(gone)
    verify_receipt(gone.receipt, scene.rig.signer.public_key)
    with pytest.raises(DemoLearnerError, match=r"nothing to withdraw"):
        scene.desk.withdraw(asked, leaver)


def test_a_guardian_withdraws_for_a_child(scene: Scene) -> None:
    """Whoever answered may take it back in the same way."""
    child = Learner(subject="kim", birth_year=2012, guardian="parent of kim")
    asked = scene.desk.asked(DATASET)
    played = scene.desk.play(asked, [child], refuse_share=0.0)
    assert played.by_guardian == 1
    gone = scene.desk.withdraw(asked, child)
    assert gone.pseudonym == subject_ref(scene.rig.service.secret, "kim")


def test_thousands_are_imported_in_batches(scene: Scene) -> None:
    """A data set's learners come as an institution's list; who refuses is always the same."""
    subjects = [str(number) for number in range(4_500)]
    asked = scene.desk.asked(DATASET)
    played = scene.desk.import_all(asked, subjects, refuse_share=0.1)
    assert 0.07 < len(played.refused) / len(subjects) < 0.13
    assert all(refuses_for(one.subject, 0.1) for one in played.refused)
    assert len(scene.rig.service.consenting(DATASET, PURPOSE)) == len(played.granted)


def test_what_a_school_refuses_is_said(scene: Scene) -> None:
    """An unpublished dataset, or a minor without a guardian, ends the demo with the school's own sentence."""
    with pytest.raises(DemoLearnerError, match=r"publish the dataset first"):
        scene.desk.asked("urn:nowhere")
    asked = scene.desk.asked(DATASET)
    with pytest.raises(DemoLearnerError, match=r"answered 403 to a learner: .*guardian"):
        scene.desk.play(asked, [Learner(subject="alone", birth_year=2015)], refuse_share=0.0)
    with pytest.raises(DemoLearnerError, match=r"nobody granted"):
        choose_leaver(scene.desk.play(asked, [], refuse_share=0.0))


def test_the_demos_client_calls_nobody_else(scene: Scene) -> None:
    """Learners' calls go to their school only."""
    elsewhere = dataclasses.replace(scene.desk, address="http://elsewhere.example")
    with pytest.raises(AddressRefusedError):
        elsewhere.asked(DATASET)
