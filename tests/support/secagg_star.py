"""A star played in memory with the real core: members, manifest, seats with rows, a collector."""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from learning.placement import commitment
from learning.secagg.collector import add_clear, add_shares, open_orders
from learning.secagg.context import Group, RoundContext, Seat
from learning.secagg.contributor import UploadPackage, prepare_upload
from learning.secagg.header import UploadHeader
from learning.secagg.keys import SealingKey
from learning.secagg.layout import Section, VectorLayout
from learning.secagg.manifest import APPROVAL_KIND, Identity, Terms
from learning.secagg.packing import Bytes, RingVector, pack, ring_dtype
from learning.secagg.seat import accept_upload, accept_vector, keep_seeds, kept_seeds, received, release
from learning.secagg.sets import ContributorSet, propose_set, sign_set
from learning.secagg.shares import ShareHeader, verify_share
from policies.signing import Signer, encode

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
EXPIRES = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
PLAN = sha256(b"plan").hexdigest()
MODEL = sha256(b"model").hexdigest()


def member_id(number: int) -> str:
    """Return the id of the member with this number."""
    return f"did:web:school-{number:03d}.example"


def member_signer(number: int) -> Signer:
    """Return the member's signing key: always the same one."""
    key = sha256(f"signing key {number}".encode()).digest()
    return Signer(kid=member_id(number), private_key=Ed25519PrivateKey.from_private_bytes(key))


def member_sealing_key(number: int) -> SealingKey:
    """Return the member's sealing key: always the same one."""
    return SealingKey(private_bytes=sha256(f"sealing key {number}".encode()).digest())


def reveal_of(number: int) -> str:
    """Return the member's beacon reveal."""
    return encode(sha256(f"reveal {number}".encode()).digest())


def identify(payload: Mapping[str, Any]) -> Identity:
    """Stand in for the check of a membership credential."""
    number = int(payload["participant"].removeprefix("did:web:school-").removesuffix(".example"))
    return Identity(
        participant=member_id(number),
        organisation=payload.get("membership", f"School {number}"),
        public_key=member_signer(number).public_key,
    )


def approval(number: int, *, job: str = "urn:uuid:job-1", epoch: int = 0, **changes: Any) -> dict[str, Any]:
    """Return the member's signed approval of the plan."""
    me = member_id(number)
    fixed = commitment(job=job, epoch=epoch, participant=me, reveal=reveal_of(number))
    payload = {
        "job": job,
        "plan_digest": PLAN,
        "participant": me,
        "membership": f"School {number}",
        "hpke_public": [member_sealing_key(number).public_key],
        "beacon_commitment": fixed,
        "agreement_id": f"urn:uuid:agreement-{number}",
        "size_band": "20-49",
    }
    return member_signer(number).sign(APPROVAL_KIND, payload | changes)


def terms(**changes: Any) -> Terms:
    """Return the collector's terms of a small job."""
    layout = VectorLayout(sections=(Section(name="w", size=10, bound=1.0, scale_bits=16),))
    value: dict[str, Any] = {
        "job": "urn:uuid:job-1",
        "plan": PLAN,
        "collector": "did:web:ai.example",
        "collector_organisation": "AI Ltd",
        "layout": layout,
        "n_min": 2,
        "n_max": 100,
        "expires": EXPIRES,
        "round_seconds": 60,
    }
    return Terms(**(value | changes))


def make_group(m: int, t: int, *, n_min: int = 2, n_max: int = 1000, copies: int | None = None) -> Group:
    """Return a group whose seats are members 0..m-1."""
    seats = tuple(
        Seat(
            participant=member_id(number),
            organisation=f"School {number}",
            public_key=member_signer(number).public_key,
            sealing_key=member_sealing_key(number).public_key,
        )
        for number in range(m)
    )
    return Group(seats=seats, threshold=t, n_min=n_min, n_max=n_max, copies=m - t if copies is None else copies)


def make_context(k: int = 32, d: int = 50, **changes: Any) -> RoundContext:
    """Return the context of a first attempt at round 1."""
    value: dict[str, Any] = {
        "job": "urn:uuid:job-1",
        "manifest": sha256(b"manifest").hexdigest(),
        "plan": PLAN,
        "model": MODEL,
        "round": 1,
        "attempt": 1,
        "k": k,
        "d": d,
    }
    return RoundContext(**(value | changes))


def ring_vector(context: RoundContext, seed: int) -> RingVector:
    """Return a vector that uses the whole ring."""
    words = np.random.default_rng(seed).integers(0, 2**64, context.d, dtype=np.uint64)
    if context.k < 64:
        words &= np.uint64((1 << context.k) - 1)
    return words.astype(ring_dtype(context.k))


@dataclasses.dataclass(kw_only=True)
class SeatRows:
    """What a seat stores; every step below uses nothing else."""

    column: int
    headers: dict[str, UploadHeader] = dataclasses.field(default_factory=dict)
    kept: dict[str, bytes] = dataclasses.field(default_factory=dict)
    vectors: dict[str, Bytes] = dataclasses.field(default_factory=dict)
    signed: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    released: frozenset[int] | None = None

    def known(self) -> dict[str, str]:
        """Return contributor -> header digest of what was accepted."""
        return {name: header.digest for name, header in self.headers.items()}


@dataclasses.dataclass(kw_only=True)
class Star:
    """A group with its seats' rows and the shares that reached the collector."""

    context: RoundContext
    group: Group
    members: dict[str, str]
    rows: list[SeatRows]
    shares: list[tuple[ShareHeader, bytes]] = dataclasses.field(default_factory=list)

    def upload(self, package: UploadPackage, *, to: Sequence[int] | None = None) -> None:
        """Deliver one package: header and box to every seat in ``to``, the vector to its carriers."""
        for column in range(len(self.rows)) if to is None else to:
            row = self.rows[column]
            key = member_sealing_key(column)
            header, seeds = accept_upload(
                package.document,
                package.boxes[column],
                column=column,
                context=self.context,
                group=self.group,
                members=self.members,
                key=key,
                known=row.known(),
            )
            row.headers[header.contributor] = header
            row.kept[header.contributor] = keep_seeds(seeds, header, column=column, key=key)
            if column in self.group.carriers(self.context, header.contributor):
                accept_vector(header, package.vector, self.context)
                row.vectors[header.contributor] = package.vector

    def received(self, column: int) -> dict[str, str]:
        """Return what the seat reports."""
        row = self.rows[column]
        return received(row.known(), row.vectors, column=column, context=self.context, group=self.group)

    def agree(self, columns: Sequence[int] | None = None) -> tuple[ContributorSet, list[dict[str, Any]]]:
        """Let the seats in ``columns`` report and sign; return the set and the signatures."""
        live = list(range(len(self.rows))) if columns is None else list(columns)
        proposed = propose_set({member_id(column): self.received(column) for column in live}, self.group)
        return proposed, [self.sign(column, proposed) for column in live]

    def sign(self, column: int, proposed: ContributorSet) -> dict[str, Any]:
        """Let one seat sign."""
        row = self.rows[column]
        document = sign_set(
            proposed,
            context=self.context,
            group=self.group,
            signer=member_signer(column),
            held=self.received(column),
            signed=row.signed,
        )
        row.signed.append(document)
        return document

    def release(
        self,
        column: int,
        proposed: ContributorSet,
        statements: Sequence[Mapping[str, Any]],
        lost: frozenset[int] = frozenset(),
    ) -> None:
        """Let one seat release, from its rows alone, and hand the share to the collector."""
        row = self.rows[column]
        share = release(
            proposed,
            statements,
            column=column,
            context=self.context,
            group=self.group,
            signer=member_signer(column),
            lost=lost,
            released=row.released,
            seeds=lambda name: kept_seeds(
                row.kept[name], row.headers[name], column=column, key=member_sealing_key(column), group=self.group
            ),
            vectors=row.vectors.__getitem__,
        )
        row.released = lost
        header = verify_share(share.document, share.vector, proposed, context=self.context, group=self.group)
        self.shares.append((header, bytes(share.vector)))

    def finish(self, proposed: ContributorSet, lost: frozenset[int] = frozenset()) -> RingVector:
        """Return the collector's sum of the shares that have arrived."""
        loads = [(header, vector.__bytes__) for header, vector in self.shares]
        return add_shares(loads, proposed, lost=lost, context=self.context, group=self.group)

    def orders(self, proposed: ContributorSet, lost: frozenset[int]) -> dict[int, frozenset[int] | None]:
        """Return which seats the collector still waits for."""
        headers = [header for header, _ in self.shares]
        return open_orders(headers, proposed, lost=lost, context=self.context, group=self.group)


def make_star(m: int, t: int, *, context: RoundContext, n_min: int = 2, members: int = 0) -> Star:
    """Return a star of fresh seats that knows ``members`` members (at least the seats)."""
    keys = {member_id(number): member_signer(number).public_key for number in range(max(m, members))}
    rows = [SeatRows(column=column) for column in range(m)]
    return Star(context=context, group=make_group(m, t, n_min=n_min), members=keys, rows=rows)


def package(star: Star, number: int, vector: RingVector, **changes: Any) -> UploadPackage:
    """Return the upload of member ``number``."""
    value: dict[str, Any] = {
        "context": star.context,
        "group": star.group,
        "signer": member_signer(number),
        "contributor": member_id(number),
    }
    return prepare_upload(vector, **(value | changes))


def clear_sum(vectors: Mapping[str, RingVector], context: RoundContext) -> RingVector:
    """Return the sum that clear aggregation gives."""
    packed = {name: bytes(pack(vector, context.k)) for name, vector in vectors.items()}
    return add_clear({name: data.__bytes__ for name, data in packed.items()}, context=context, n_min=1)
