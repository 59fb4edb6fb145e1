"""What leaves a school while a model is trained: sums of masked vectors, and nothing that is about one learner.

Every participant runs as an operator starts it, with two things around it. The kernel (Landlock) refuses to read the
schools' source folders to every process but a school's own worker and its children. A relay in front of each
participant keeps all that other processes said to it, and what it answered.
"""

import base64
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from connector.demo.plans import PlanOptions
from connector.demo.stage import School, Stage
from connector.settings import Settings
from connector.sources.opened import open_source
from connector.sources.snapshot import build_snapshot
from connector.sources.source import Location
from learning.plans import Aggregation
from learning.secagg.packing import vector_digest
from policies.subjects import subject_ref
from tests.support.messages import Sent, everything, requests
from tests.support.stage import Space, blobs, source

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

ROUNDS = 3
STATEMENT_ID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
READ = "import sys; sys.exit(sum(not open(name).read(1) for name in sys.argv[1:]))"


@pytest.fixture(scope="module")
def star_job(schools: Space) -> str:
    """Return a finished job whose updates were summed by seats."""
    job_id, _ = schools.run(plan(schools, "star"))
    return job_id


@pytest.fixture(scope="module")
def held(schools: Space, star_job: str) -> dict[str, bytes]:
    """Return all that the AI provider keeps after the secure job: its blobs and its database files."""
    folder = schools.stage.ai.folder
    return {**blobs(schools.stage.ai), **{path.name: path.read_bytes() for path in folder.glob("*.sqlite*")}}


@pytest.fixture(scope="module")
def plain_vectors(schools: Space, held: dict[str, bytes]) -> dict[int, list[NDArray[np.uint32]]]:
    """Return every school's unmasked vector by round: what it would send in the clear under the same plan.

    The order of rows and the rounding follow from plan seed, round and provider, not from the way of summing.
    """
    job_id, _ = schools.run(plan(schools, "clear"))
    found: dict[int, list[NDArray[np.uint32]]] = {}
    for sent in vectors(schools, job_id, "uploads"):
        found.setdefault(round_of(sent), []).append(ring(sent.body))
    assert sorted(found) == list(range(1, ROUNDS + 2))
    assert {len(each) for each in found.values()} == {len(schools.stage.schools)}
    return found


def plan(schools: Space, mode: str) -> dict[str, object]:
    """Return a short plan; only the way of summing differs between two of them."""
    aggregation = Aggregation(mode="clear" if mode == "clear" else "star")
    options = PlanOptions(rounds=ROUNDS, seed=5, aggregation=aggregation, baseline=False, min_contributors=3)
    return schools.plan(options)


def vectors(schools: Space, job_id: str, what: str) -> list[Sent]:
    """Return the uploads (or shares) of a job that carried a vector, each once."""
    found: dict[str, Sent] = {}
    for relay in schools.relays.values():
        for sent in requests(relay.exchanges):
            if f"/{job_id}/" in sent.path and sent.path.endswith(f"/{what}") and sent.body:
                found[hashlib.sha256(sent.body).hexdigest()] = sent
    return list(found.values())


def round_of(sent: Sent) -> int:
    """Return the round that a request is about."""
    return int(sent.path.split("/rounds/")[1].split("/")[0])


def ring(data: bytes) -> NDArray[np.uint32]:
    """Return the ring values of a packed vector of 32 bits a value."""
    return np.frombuffer(data, dtype="<u4")


def surprise(vector: NDArray[np.uint32]) -> float:
    """Return how far the bytes of a vector are from uniform: chi-square of 255 degrees of freedom, in deviations."""
    counts = np.bincount(vector.view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    return float((np.sum((counts - expected) ** 2 / expected) - 255) / np.sqrt(2 * 255))


def test_only_a_schools_own_worker_can_open_its_source(schools: Space, star_job: str) -> None:
    """The job is complete although the kernel opens each source to one process only, as trying each of them shows."""
    stage = schools.stage
    assert schools.ai.get(f"/management/jobs/{star_job}")["state"] == "COMPLETED"
    opened = {
        (place.slug, kind, school.place.slug)
        for place in stage.places
        for kind in ("serve", "worker")
        for school in stage.schools
        if subprocess.run(
            schools.confined(stage, place, kind, [sys.executable, "-c", READ, str(source(stage, school))]),
            capture_output=True,
            check=False,
            timeout=60,
        ).returncode
        == 0
    }
    assert opened == {(school.place.slug, "worker", school.place.slug) for school in stage.schools}
    for place in stage.places:
        for process in (schools.running.apis[place.slug], schools.running.workers[place.slug]):
            assert "NoNewPrivs:\t1" in Path(f"/proc/{process.pid}/status").read_text()


def test_no_message_between_participants_carries_a_record(schools: Space, star_job: str, tmp_path: Path) -> None:
    """No learner's id or pseudonym, statement id, or row of a snapshot is in what the participants told each other."""
    said = everything(exchange for relay in schools.relays.values() for exchange in relay.exchanges)
    assert len(vectors(schools, star_job, "uploads")) == (ROUNDS + 1) * len(schools.stage.schools)
    for school in schools.stage.schools:
        statements = source(schools.stage, school).read_bytes()
        known = set(STATEMENT_ID.findall(statements))
        assert len(known) > 1000
        assert not known & set(STATEMENT_ID.findall(said))
        settings = Settings.load(school.place.folder)
        key = bytes.fromhex(settings.consent.pseudonym_key.read_text().strip())
        for learner in school.learners:
            assert learner.subject.encode() in statements
            assert learner.subject.encode() not in said
            assert subject_ref(key, learner.subject).encode() not in said
        for record in records(schools.stage, school, tmp_path / school.place.slug):
            assert record not in said


def records(stage: Stage, school: School, file: Path) -> Iterator[bytes]:
    """Yield each learner's answers as bytes, as numbers, and as JSON."""
    location = Location(folder=stage.data, parameters=school.entry.parameters)
    build_snapshot(open_source(stage.view, location), None, lambda subject: subject, file)
    arrays = load_file(file)
    for start, end in zip(arrays["offsets"], arrays["offsets"][1:], strict=False):
        answers = arrays["correct"][start:end]
        yield answers.tobytes()
        yield answers.astype(np.float32).tobytes()
        yield json.dumps(answers.tolist()).encode()
        yield json.dumps(answers.tolist(), separators=(",", ":")).encode()


def test_what_travels_is_uniform(
    schools: Space, star_job: str, plain_vectors: dict[int, list[NDArray[np.uint32]]]
) -> None:
    """Every vector on the wire looks uniform byte by byte, where a plain one is far from it."""
    uploads, shares = vectors(schools, star_job, "uploads"), vectors(schools, star_job, "shares")
    assert len(shares) == (ROUNDS + 1) * 3
    assert max(surprise(ring(sent.body)) for sent in [*uploads, *shares]) < 6
    assert min(surprise(vector) for vectors_ in plain_vectors.values() for vector in vectors_) > 1000


def test_shares_show_their_sum_and_no_part_of_it(
    schools: Space, star_job: str, plain_vectors: dict[int, list[NDArray[np.uint32]]]
) -> None:
    """Three shares add up to the sum of the plain vectors, and no fewer of them differ from any of those by a pattern."""
    shares: dict[int, list[NDArray[np.uint32]]] = {}
    for sent in vectors(schools, star_job, "shares"):
        shares.setdefault(round_of(sent), []).append(ring(sent.body))
    for number, plain in plain_vectors.items():
        together = np.sum(shares[number], axis=0, dtype=np.uint32)
        assert together.tobytes() == np.sum(plain, axis=0, dtype=np.uint32).tobytes()
        fewer = [*shares[number], *(together - share for share in shares[number])]
        assert max(surprise(part - vector) for part in fewer for vector in plain) < 6


def test_the_ai_provider_keeps_no_single_contribution(
    held: dict[str, bytes], plain_vectors: dict[int, list[NDArray[np.uint32]]]
) -> None:
    """No blob and no row of the AI provider's database holds a school's vector, whole or in part, or its text forms."""
    for plain in plain_vectors.values():
        for vector in plain:
            assert not {vector_digest(vector.tobytes()), hashlib.sha256(vector.tobytes()).hexdigest()} & held.keys()
            for part in vector[np.flatnonzero(vector)[:16]], vector[:64], vector[-64:][::-1]:
                for shown in shapes(part):
                    assert all(shown not in data for data in held.values())
            for data in held.values():
                if len(data) == vector.nbytes:
                    assert surprise(ring(data) - vector) < 6


def shapes(part: NDArray[np.uint32]) -> Iterator[bytes]:
    """Yield the ways in which a piece of a vector may be written down; nothing for one that is only zeros."""
    data = part.tobytes()
    if len(set(data)) > 8:
        yield data
        yield data.hex().encode()
        yield base64.b64encode(data)[:-4]
        yield base64.urlsafe_b64encode(data)[:-4]
        yield ",".join(map(str, part.tolist())).encode()
