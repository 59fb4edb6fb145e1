"""Seats, inner groups and collector of a run: they take what comes through the pipe and never see a plain vector.

The seats of a group share this process, so that memory and CPU printed are those of all m of them; a vector that
several seats store is kept once, and checked by its first carrier.
"""

import contextlib
import dataclasses
import json
import threading
from collections import deque
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from learning.secagg import inner, seat, work
from learning.secagg.collector import add_shares
from learning.secagg.context import Group, RoundContext
from learning.secagg.contributor import UploadPackage
from learning.secagg.header import UploadHeader
from learning.secagg.keys import SealingKey
from learning.secagg.packing import Bytes, RingVector
from learning.secagg.seat import (
    accept_copy,
    accept_upload,
    accept_vector,
    keep_seeds,
    kept_seeds,
    received,
    release,
)
from learning.secagg.sets import ContributorSet, propose_set, sign_set
from learning.secagg.shares import Share, verify_share
from policies.canonical import canonical_json
from tests.benchmarks.secagg_clock import Stopwatch
from tests.support.secagg_star import member_id, member_sealing_key, member_signer

ACCEPT, AGREE, RELEASE, INNER, COLLECT = "seats: accept", "seats: agree", "seats: release", "inner seats", "collector"
MASKS, OPENS, JSON, HASH, ADD = "masks: AES and add", "HPKE", "JSON, signatures", "BLAKE3, copies", "add vectors"
OTHER = "bookkeeping"
# Bytes that may wait between pipe and seats.
_AHEAD = 64 << 20


@dataclasses.dataclass(kw_only=True)
class SeatRows:
    """What one seat stores of one round."""

    column: int
    key: SealingKey
    headers: dict[str, UploadHeader] = dataclasses.field(default_factory=dict)
    known: dict[str, str] = dataclasses.field(default_factory=dict)
    kept: dict[str, bytes] = dataclasses.field(default_factory=dict)
    vectors: dict[str, Bytes] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(kw_only=True)
class LeafGroup:
    """The seats of one leaf group in one round."""

    context: RoundContext
    group: Group
    members: dict[str, str]
    watch: Stopwatch
    rows: list[SeatRows] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        """Give every seat its key."""
        columns = range(len(self.group.seats))
        self.rows = [SeatRows(column=column, key=member_sealing_key(column)) for column in columns]

    def take(self, columns: bytes, header: bytes, boxes: bytes, vector: Bytes) -> None:
        """Let the seats in ``columns`` accept one contributor's package."""
        size = len(boxes) // len(self.rows)
        for column in columns:
            row, box = self.rows[column], boxes[column * size : (column + 1) * size]
            with self.watch.role(ACCEPT, OTHER):
                with self.watch.part(JSON):
                    document: dict[str, Any] = json.loads(header)
                found, seeds = accept_upload(
                    document,
                    box,
                    column=column,
                    context=self.context,
                    group=self.group,
                    members=self.members,
                    key=row.key,
                    known=row.known,
                )
                name = found.contributor
                row.headers[name], row.known[name] = found, found.digest
                row.kept[name] = keep_seeds(seeds, found, column=column, key=row.key)
                carriers = self.group.carriers(self.context, name)
                if column in carriers:
                    # As a seat does: copies wait for their hash until they are needed.
                    check = accept_vector if carriers[0] == column else accept_copy
                    with self.watch.part(HASH):
                        check(found, vector, self.context)
                    row.vectors[name] = vector

    def hold(self, package: UploadPackage) -> None:
        """Let every seat accept a package that came another way."""
        self.take(
            bytes(range(len(self.rows))), canonical_json(package.document), b"".join(package.boxes), package.vector
        )

    def agree(self, columns: range | list[int]) -> tuple[ContributorSet, list[dict[str, Any]]]:
        """Let the living seats report and sign; return the set and the signatures."""
        with self.watch.role(AGREE, OTHER):
            held = {column: self._held(self.rows[column]) for column in columns}
            proposed = propose_set({member_id(column): report for column, report in held.items()}, self.group)
            return proposed, [
                sign_set(
                    proposed,
                    context=self.context,
                    group=self.group,
                    signer=member_signer(column),
                    held=report,
                    signed=(),
                )
                for column, report in held.items()
            ]

    def release(
        self,
        column: int,
        proposed: ContributorSet,
        statements: list[dict[str, Any]],
        lost: frozenset[int] = frozenset(),
    ) -> Share:
        """Let one seat give its share."""
        row = self.rows[column]
        with self.watch.role(RELEASE, ADD):
            return release(
                proposed,
                statements,
                column=column,
                context=self.context,
                group=self.group,
                signer=member_signer(column),
                lost=lost,
                released=None,
                seeds=lambda name: kept_seeds(
                    row.kept[name], row.headers[name], column=column, key=row.key, group=self.group
                ),
                vectors=lambda name: self._vector(row, name),
            )

    def collect(self, shares: list[Share], proposed: ContributorSet, lost: frozenset[int] = frozenset()) -> RingVector:
        """Check the shares and add them up: what the collector does in a star."""
        with self.watch.role(COLLECT, ADD):
            with self.watch.part(HASH):
                headers = [
                    verify_share(share.document, share.vector, proposed, context=self.context, group=self.group)
                    for share in shares
                ]
            loads = [(header, partial(_vector_of, share)) for header, share in zip(headers, shares, strict=True)]
            return add_shares(loads, proposed, lost=lost, context=self.context, group=self.group)

    def _vector(self, row: SeatRows, name: str) -> Bytes:
        """Return a vector; a copy is compared with its header first."""
        if self.group.carriers(self.context, name)[0] != row.column:
            with self.watch.part(HASH):
                accept_vector(row.headers[name], row.vectors[name], self.context)
        return row.vectors[name]

    def _held(self, row: SeatRows) -> dict[str, str]:
        return received(row.known, row.vectors, column=row.column, context=self.context, group=self.group)


def _vector_of(share: Share) -> Bytes:
    return share.vector


def count_parts(watch: Stopwatch) -> None:
    """Have the core's parts counted in this process."""
    watch.wrap(work, "accumulate", MASKS)
    watch.wrap(seat, "verify_header", JSON)
    watch.wrap(seat, "sign_share", HASH)
    watch.wrap(inner, "add_column", ADD)
    watch.wrap(SealingKey, "open", OPENS)


class Inbox:
    """What comes through the pipe, read ahead by a thread of its own, but not far."""

    def __init__(self, pipe: Connection) -> None:
        """Begin to read."""
        self._waiting: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._ahead = 0
        self._over = False
        threading.Thread(target=self._read, args=(pipe,), daemon=True).start()

    def __iter__(self) -> Iterator[bytes]:
        """Return the inbox: one message after the other."""
        return self

    def __next__(self) -> bytes:
        """Return the next message; the sender's end is the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._over)
            if not self._waiting:
                raise StopIteration
            data = self._waiting.popleft()
            self._ahead -= len(data)
            self._changed.notify_all()
        return data

    def _read(self, pipe: Connection) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                data = pipe.recv_bytes()
                with self._changed:
                    self._changed.wait_for(lambda: self._ahead < _AHEAD)
                    self._waiting.append(data)
                    self._ahead += len(data)
                    self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()
