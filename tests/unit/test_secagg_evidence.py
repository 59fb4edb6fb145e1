"""Each way of cheating leaves a file that convicts the cheater, and nobody else."""

import base64
import copy
import json
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from connector.cli.main import app
from learning.secagg.context import RoundContext
from learning.secagg.contributor import UploadPackage, draw_mask, prepare_upload
from learning.secagg.errors import BoxError, EvidenceError, SeedCommitmentError
from learning.secagg.evidence import KINDS, check_evidence, make_evidence
from learning.secagg.exchange import exchange_of, open_with_exchange
from learning.secagg.header import KIND as UPLOAD_KIND
from learning.secagg.header import verify_header
from learning.secagg.keys import box_info, new_sealing_key, seal
from learning.secagg.manifest import Manifest, build_manifest
from learning.secagg.packing import pack, unpack
from learning.secagg.seat import open_seeds, release
from learning.secagg.sets import KIND as SET_KIND
from learning.secagg.sets import ContributorSet
from learning.secagg.shares import Share, sign_share
from learning.secagg.sketch import (
    SIZE,
    check_shares,
    joint_coin,
    parts_of,
    read_answer,
    sign_answer,
    sketch,
    sketch_of_masks,
    sketch_of_vectors,
)
from policies.signing import Signer, document_digest, encode, new_signer
from tests.support.secagg_star import (
    MODEL,
    approval,
    identify,
    member_id,
    member_sealing_key,
    member_signer,
    reveal_of,
    ring_vector,
    terms,
)

COLLECTOR = new_signer("did:web:ai.example")
COUNT = 6


class Job:
    """A signed manifest of a (5, 2) star, three uploads, and what its seats have."""

    def __init__(self) -> None:
        reveals = {member_id(number): reveal_of(number) for number in range(COUNT)}
        approvals = [approval(number) for number in range(COUNT)]
        self.document, self.manifest = build_manifest(
            terms(shape=(5, 2)), approvals, reveals, identify=identify, signer=COLLECTOR
        )
        self.context = self.manifest.context(round=1, attempt=1, model=MODEL)
        assert self.manifest.group is not None
        self.group = self.manifest.group
        self.packages = {member_id(number): self.package(number) for number in range(3)}
        self.proposed = ContributorSet.of(
            {name: document_digest(package.document) for name, package in self.packages.items()}
        )

    def package(self, number: int, **changes: Any) -> UploadPackage:
        """Return an upload."""
        vector = ring_vector(self.context, number)
        return prepare_upload(
            vector,
            context=changes.get("context", self.context),
            group=self.group,
            signer=member_signer(number),
            contributor=member_id(number),
        )

    def number(self, column: int) -> int:
        """Return which member sits in a column."""
        return next(n for n in range(COUNT) if member_id(n) == self.group.seats[column].participant)

    def seeds(self, column: int, name: str) -> tuple[bytes, ...]:
        """Return what a seat finds in its box."""
        package = self.packages[name]
        header = verify_header(package.document, self.context, self.manifest.keys, seeds=len(self.group.table), boxes=5)
        key = member_sealing_key(self.number(column))
        return open_seeds(header, package.boxes[column], column=column, context=self.context, group=self.group, key=key)

    def share(self, column: int) -> Share:
        """Return a seat's honest share."""
        statements = [
            member_signer(self.number(seat)).sign(
                SET_KIND, self.proposed.statement(self.context, self.group.seats[seat].participant)
            )
            for seat in range(5)
        ]
        return release(
            self.proposed,
            statements,
            column=column,
            context=self.context,
            group=self.group,
            signer=member_signer(self.number(column)),
            lost=frozenset(),
            released=None,
            seeds=lambda name: self.seeds(column, name),
            vectors=lambda name: self.packages[name].vector,
        )

    def answers(self, column: int, coin: bytes) -> list[dict[str, Any]]:
        """Return what two other seats say about each part of a column's share."""
        names, found = self.proposed.contributors, []
        for part in parts_of(column, self.group):
            kind, number = part.split()
            if kind == "mask":
                others = [seat for seat in self.group.table.holders[int(number)] if seat != column]
                for seat in others:
                    place = self.group.table.held_by(seat).index(int(number))
                    seeds = {name: self.seeds(seat, name)[place] for name in names}
                    values = sketch_of_masks(int(number), names, seeds, context=self.context, coin=coin)
                    found.append(self.answer(seat, part, values, coin))
            else:
                mine = [n for n in names if self.group.carriers(self.context, n)[0] == column]
                data = [self.packages[name].vector for name in mine]
                values = sketch_of_vectors(data, context=self.context, coin=coin)
                found += [self.answer(seat, part, values, coin) for seat in range(5) if seat != column][:2]
        return found

    def answer(self, column: int, part: str, values: Any, coin: bytes) -> dict[str, Any]:
        """Return a seat's signed sketch."""
        return sign_answer(
            member_signer(self.number(column)), self.proposed, part, values, context=self.context, coin=coin
        )

    def evidence(self, kind: str, **proof: Any) -> dict[str, Any]:
        """Return the file."""
        return make_evidence(kind, manifest=self.document, collector_key=COLLECTOR.public_key, proof=proof)

    def convicts(self, kind: str, culprit: str, **proof: Any) -> dict[str, Any]:
        """Check that the file convicts, through JSON and back."""
        document = json.loads(json.dumps(self.evidence(kind, **proof)))
        verdict = check_evidence(document)
        assert (verdict.kind, verdict.culprit, verdict.job) == (kind, culprit, "urn:uuid:job-1")
        return document

    def proves_nothing(self, kind: str, **proof: Any) -> None:
        """Check that no file comes of it."""
        with pytest.raises(EvidenceError):
            self.evidence(kind, **proof)


@pytest.fixture(scope="module")
def job() -> Job:
    """A job, made once."""
    return Job()


def statement(job: Job, signer: Signer, names: list[str], **context: Any) -> dict[str, Any]:
    """Return a seat's signature on a set of these contributors."""
    proposed = ContributorSet.of(dict.fromkeys(names, "ab" * 32))
    where = job.manifest.context(round=context.get("round", 1), attempt=context.get("attempt", 1), model=MODEL)
    return signer.sign(SET_KIND, proposed.statement(where, signer.kid))


def test_a_split_view_is_proven_by_its_two_signatures(job):
    """Two sets in one round, attempts included; the same set twice, two rounds or two seats prove nothing."""
    signer, other = member_signer(1), member_signer(2)
    first = statement(job, signer, ["a", "b", "c"])
    for second in (statement(job, signer, ["a", "b"]), statement(job, signer, ["a", "b"], attempt=2)):
        job.convicts("split-view", signer.kid, documents=[first, second])
    for second in (
        first,
        statement(job, signer, ["a", "b", "c"], attempt=2),
        statement(job, signer, ["a", "b"], round=2),
        statement(job, other, ["a", "b"]),
        statement(job, new_signer(signer.kid), ["a", "b"]),
        {},
    ):
        job.proves_nothing("split-view", documents=[first, second])


def test_a_double_release_is_proven_by_its_two_headers(job):
    """Two shares of one sum; a further share for a newly lost seat is honest work."""
    signer = member_signer(job.number(0))
    lost: dict[str, Any] = {"lost": frozenset(), "released": None}
    first = sign_share(signer, job.proposed, b"one", context=job.context, **lost).document
    second = sign_share(signer, job.proposed, b"two", context=job.context, **lost).document
    further = sign_share(
        signer, job.proposed, b"two", context=job.context, lost=frozenset({3}), released=frozenset()
    ).document
    context = job.context.document()
    job.convicts("double-release", signer.kid, documents=[first, second], context=context)
    job.proves_nothing("double-release", documents=[first, first], context=context)
    job.proves_nothing("double-release", documents=[first, further], context=context)
    job.proves_nothing("double-release", documents=[first, second], context=context | {"round": 9})


def test_two_uploads_of_one_attempt_are_proven_by_their_headers(job):
    """Other seeds make another upload; other attempts are others."""
    name = member_id(1)
    first, second = job.packages[name].document, job.package(1).document
    job.convicts("two-uploads", name, documents=[first, second])
    job.proves_nothing("two-uploads", documents=[first, first])
    later = job.package(1, context=job.manifest.context(round=1, attempt=2, model=MODEL)).document
    job.proves_nothing("two-uploads", documents=[first, later])
    job.proves_nothing("two-uploads", documents=[first, job.packages[member_id(2)].document])


def test_two_models_in_one_round_are_proven_by_the_openings(job):
    """Model inconsistency: whoever shows different members different models signs it."""

    def opening(signer: Signer, **changes: Any) -> dict[str, Any]:
        value = {"job": "urn:uuid:job-1", "manifest": job.manifest.digest, "round": 1, "attempt": 1, "model": MODEL}
        return signer.sign("round-opening", value | changes)

    first = opening(COLLECTOR)
    job.convicts("two-openings", COLLECTOR.kid, documents=[first, opening(COLLECTOR, model="ab" * 32)])
    job.convicts("two-openings", COLLECTOR.kid, documents=[first, opening(COLLECTOR, replaced={"0": {"1": 1}})])
    for second in (
        first,
        opening(COLLECTOR, round=2, model="ab" * 32),
        opening(COLLECTOR, manifest="ab" * 32, model="ab" * 32),
        opening(member_signer(1), model="ab" * 32),
    ):
        job.proves_nothing("two-openings", documents=[first, second])


def test_equivocated_seeds_are_proven_by_opening_the_one_box(job):
    """The seat shows the box's Diffie-Hellman value; an honest box convicts nobody, nor does a made-up value."""
    column, name = 2, member_id(1)
    key = member_sealing_key(job.number(column))
    mask = draw_mask(job.context, job.group, name)
    info = box_info(job.context.digest, name, job.group.seats[column].participant)
    wrong = seal(bytes(32) * len(job.group.table.held_by(column)), job.group.seats[column].sealing_key, info)
    boxes = tuple(wrong if place == column else box for place, box in enumerate(mask.boxes))
    package = prepare_upload(
        ring_vector(job.context, 1),
        context=job.context,
        group=job.group,
        signer=member_signer(1),
        contributor=name,
        mask=type(mask)(contributor=name, context=mask.context, seeds=mask.seeds, boxes=boxes, total=mask.total),
    )
    header = verify_header(package.document, job.context, job.manifest.keys, seeds=10, boxes=5)
    with pytest.raises(SeedCommitmentError):
        open_seeds(header, wrong, column=column, context=job.context, group=job.group, key=key)
    proof = {
        "header": package.document,
        "column": column,
        "box": encode(wrong),
        "exchange": encode(exchange_of(wrong, key)),
    }
    job.convicts("equivocated-seeds", name, **proof)
    honest = job.packages[name]
    shown = {
        "header": honest.document,
        "column": column,
        "box": encode(honest.boxes[column]),
        "exchange": encode(exchange_of(honest.boxes[column], key)),
    }
    job.proves_nothing("equivocated-seeds", **shown)
    job.proves_nothing("equivocated-seeds", **(proof | {"exchange": encode(bytes(32))}))
    job.proves_nothing("equivocated-seeds", **(shown | {"box": encode(wrong)}))


def test_what_a_box_shows_is_what_the_key_opens():
    """The published exchange opens its own box under its own info, and no other."""
    key = new_sealing_key()
    box, other = seal(b"seeds", key.public_key, b"info"), seal(b"others", key.public_key, b"info")
    shown = exchange_of(box, key)
    assert open_with_exchange(box, shown, key.public_key, b"info") == b"seeds"
    for wrong in ((other, b"info"), (box, b"other")):
        with pytest.raises(BoxError):
            open_with_exchange(wrong[0], shown, key.public_key, wrong[1])
    with pytest.raises(BoxError):
        exchange_of(box, new_sealing_key("mlkem768-x25519"))


def bent(job: Job, column: int) -> Share:
    """Return a share that is off by one in one value, signed all the same."""
    honest = job.share(column)
    values = unpack(bytes(honest.vector), job.context.d, job.context.k).copy()
    values[3] += 1
    signer = member_signer(job.number(column))
    return sign_share(
        signer, job.proposed, pack(values, job.context.k), context=job.context, lost=frozenset(), released=None
    )


def test_a_wrong_share_is_found_and_proven_by_two_seats_for_each_part(job):
    """Committed shares, a coin thrown afterwards, signed sketches of every part: the cheater stands alone."""
    cheat = 3
    shares = {column: bent(job, column) if column == cheat else job.share(column) for column in range(5)}
    listed = [document_digest(share.document) for share in shares.values()]
    coin = joint_coin(job.context, listed, beacon=job.manifest.beacon, nonce="n")
    said = {column: job.answers(column, coin) for column in range(5)}
    uploads = shares[0].document["payload"]["uploads"]
    answers = [
        read_answer(item, context=job.context, uploads=uploads, coin=coin, keys=job.manifest.keys)
        for items in said.values()
        for item in items
    ]
    found = check_shares(
        {column: bytes(share.vector) for column, share in shares.items()},
        answers,
        group=job.group,
        context=job.context,
        coin=coin,
    )
    assert found == {column: column != cheat for column in range(5)}

    def proof(column: int, share: Share, items: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "share": share.document,
            "vector": base64.b64encode(bytes(share.vector)).decode(),
            "context": job.context.document(),
            "shares": listed,
            "nonce": "n",
            "answers": items,
        }

    culprit = job.group.seats[cheat].participant
    good = proof(cheat, shares[cheat], said[cheat])
    job.convicts("wrong-share", culprit, **good)
    job.proves_nothing("wrong-share", **proof(0, shares[0], said[0]))
    job.proves_nothing("wrong-share", **(good | {"nonce": "other"}))
    job.proves_nothing("wrong-share", **(good | {"shares": listed[:1]}))
    job.proves_nothing("wrong-share", **(good | {"vector": proof(0, shares[0], [])["vector"]}))
    alone = [item for item in said[cheat] if item["payload"]["seat"] == said[cheat][0]["payload"]["seat"]]
    job.proves_nothing("wrong-share", **(good | {"answers": alone}))
    lie = job.answer(0, said[cheat][0]["payload"]["part"], np.full(SIZE, 7, dtype="<u4"), coin)
    job.proves_nothing("wrong-share", **(good | {"answers": [*said[cheat], lie]}))


@pytest.mark.parametrize("k", [8, 20, 32, 64])
def test_sketches_are_linear_and_see_any_single_error(k):
    """In every ring the sketch of a sum is the sum of the sketches; one changed value always shows."""
    context = RoundContext(
        job="j", manifest="00" * 32, plan="11" * 32, model="22" * 32, round=1, attempt=1, k=k, d=40_000
    )
    first, second = ring_vector(context, 1), ring_vector(context, 2)
    coin = joint_coin(context, ["ab"], beacon="cd", nonce="n")
    mask = (1 << k) - 1
    total = (first + second) & first.dtype.type(mask)
    parts = sketch(first, coin, k) + sketch(second, coin, k)
    assert np.array_equal(sketch(total, coin, k), parts & first.dtype.type(mask))
    for place in (0, 17_000, 39_999):
        wrong = first.copy()
        wrong[place] ^= first.dtype.type(1 << (k - 1))
        assert (sketch(wrong, coin, k) != sketch(first, coin, k)).sum() == 4
    assert not np.array_equal(
        sketch(first, coin, k), sketch(first, joint_coin(context, ["ab"], beacon="cd", nonce="m"), k)
    )


def test_a_file_that_was_changed_or_forged_proves_nothing(job):
    """Every signature, the manifest's too, is checked again by the reader."""
    signer = member_signer(1)
    documents = [statement(job, signer, ["a", "b", "c"]), statement(job, signer, ["a", "b"])]
    good = job.evidence("split-view", documents=documents)
    for path, value in (
        (("form",), "other"),
        (("kind",), "guess"),
        (("kind",), "two-openings"),
        (("collector_key",), signer.public_key),
        (("manifest", "payload", "terms", "job"), "urn:uuid:job-2"),
        (("manifest", "payload", "members"), []),
        (("proof", "documents", 0, "payload", "round"), 2),
        (("proof",), {}),
        (("proof",), None),
    ):
        document = copy.deepcopy(good)
        place: Any = document
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        with pytest.raises(EvidenceError):
            check_evidence(document)
    other: Manifest = Job().manifest
    assert other.digest == job.manifest.digest
    assert UPLOAD_KIND not in KINDS


def test_the_command_checks_a_file_offline(job, tmp_path):
    """It names the cheater, or says that the file proves nothing."""
    signer = member_signer(1)
    documents = [statement(job, signer, ["a", "b", "c"]), statement(job, signer, ["a", "b"])]
    good = job.evidence("split-view", documents=documents)
    file = tmp_path / "evidence.json"
    file.write_text(json.dumps(good), encoding="utf-8")
    found = CliRunner().invoke(app, ["audit", "evidence", str(file)])
    assert found.exit_code == 0
    assert f"{signer.kid} signed two different sets in round 1" in found.output
    assert json.loads(CliRunner().invoke(app, ["audit", "evidence", str(file), "--json"]).output)["valid"] is True
    file.write_text(json.dumps(good | {"kind": "two-uploads"}), encoding="utf-8")
    assert isinstance(CliRunner().invoke(app, ["audit", "evidence", str(file)]).exception, EvidenceError)
