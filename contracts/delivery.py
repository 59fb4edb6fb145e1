"""Sends outbox rows: attempts, back-off, and reconciliation with the peer's state when it will not take a message.

A fast peer's 404 or 409 means "not yet": it answered before it had stored its own step. A message that is refused for
good, or too often, is dead; then the peer is asked for its state, and the process either goes on, takes over the peer's
end, or is terminated with the reason. Two sides never stay in different states for ever.

A peer that is silent is left alone with all its messages for a while (``standing``); what falls due for it then counts as
an attempt that was not made, so that a process ends in the same time whether its peer is silent to it or to others.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import quote

from contracts import agreement, negotiation, reconciliation, replies, transfer
from contracts.codec import Expand
from contracts.commands import End, Terminate
from contracts.errors import MalformedMessageError, PeerUnavailableError
from contracts.gathering import Gathering
from contracts.ports import PeerAnswer, PeerCalls, Store, UnitOfWork
from contracts.processes import Kind, Negotiation, OutboxRow, OutboxStatus, Outcome, Process, Transfer
from contracts.reconciliation import Verdict
from contracts.recorder import BEHAVIOUR_SECONDS, UNKNOWN_PID, Recorder
from contracts.standing import PeerStandings
from contracts.states import NegotiationState, Role
from contracts.transfers import TransferState

T = TypeVar("T")
# Gives a process's next row, leased, if there is one: once the transaction is committed.
Following: TypeAlias = Callable[[], OutboxRow | None]

# Answers after which the same message may still be taken later.
NOT_YET: Final = frozenset({401, 403, 404, 408, 409, 425, 429})
_KEPT_ANSWER = 500
_SILENT: Final = "the peer could not be reached or did not answer in time"
_UNTRIED: Final = "nothing was sent: the peer did not answer other messages just now"
# A confirmation is a few hundred bytes; whatever a peer sends beyond this is not read.
MAX_ANSWER: Final = 1 << 16
_UNNAMED: Final = "nothing was sent: the peer has not yet told its own id of this process"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetryRule:
    """How long to go on: ``first_seconds`` doubled per attempt up to ``longest_seconds``, ``attempts`` in all.

    A first message that the peer answers with 404 gets ``first_attempts``: there is nothing yet that could come late.
    """

    first_seconds: float = 0.1
    longest_seconds: float = 300.0
    attempts: int = 16
    first_attempts: int = 5

    def pause(self, attempts: int) -> timedelta:
        """Return the wait after so many attempts."""
        return timedelta(seconds=min(self.longest_seconds, self.first_seconds * 2.0 ** min(attempts - 1, 30)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Taken:
    """A message that the peer has taken: its row, the answer's status, and the peer's id of the process if it is new."""

    row: OutboxRow
    status: int
    peer_pid: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeliveryService:
    """One attempt at a time; threads are the driver's affair."""

    store: Store
    calls: PeerCalls
    recorder: Recorder
    retry: RetryRule = dataclasses.field(default_factory=RetryRule)
    expand: Expand | None = None
    standings: PeerStandings = dataclasses.field(default_factory=PeerStandings)
    taken: Gathering[Taken] = dataclasses.field(default_factory=Gathering)

    def attempt(self, row: OutboxRow) -> OutboxRow | None:
        """Send a leased row and write the result; returns the process's next row, leased, if it is due."""
        now = self.recorder.clock()
        if not self._holds(row, now):
            return None
        quiet = self.standings.quiet_until(row.audience, now)
        if quiet is not None and row.attempts < self.retry.attempts:
            return self.store.run("outbox.again", lambda uow: self._put_off(uow, row, None, _UNTRIED, quiet))
        ready = self._with_peer_pid(row)
        if ready is None:
            return self._again(row, None, said=_UNNAMED)
        body = ready.body.encode()
        try:
            answer = self.calls.call("POST", ready.url, audience=row.audience, body=body, max_bytes=MAX_ANSWER)
        except PeerUnavailableError as error:
            return self._again(row, None, said=str(error)[:_KEPT_ANSWER], silent=True)
        self.standings.answered(row.audience, self.recorder.clock() - now)
        return self._heard(row, answer)

    def _holds(self, row: OutboxRow, now: datetime) -> bool:
        """Whether nobody else may send this row, even where it waited longer for its turn than its lease held."""
        until = self._until(now)
        if row.lease_until is None or row.lease_until > now:
            return True
        return self.store.run("outbox.renew", lambda uow: uow.renew(row, until=until))

    def _heard(self, row: OutboxRow, answer: PeerAnswer) -> OutboxRow | None:
        if HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            learnt = self._peer_pid(row, answer.body) if is_first(row) else None
            return self._taken(Taken(row=row, status=answer.status, peer_pid=learnt))
        if answer.status in NOT_YET or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return self._again(row, answer)
        return self._reconcile(row, answer)

    def lease_due(self, limit: int, skip: frozenset[str] = frozenset()) -> tuple[OutboxRow, ...]:
        """Lease what is due, but nothing for the peers in ``skip`` (for the sweep)."""
        lease = self.recorder.doorbell.lease
        if lease is None:
            return ()
        now = self.recorder.clock()
        return tuple(self.store.lease_due(lease=lease, now=now, until=self._until(now), limit=limit, skip=skip))

    def release(self, holder: str) -> None:
        """Free what a process of this name held when it died: messages, and behaviours it was asking.

        Others' behaviours may be asked once too often or early; asking is harmless.
        """
        self.store.release(holder)
        now = self.recorder.clock()
        self.store.hasten(now=now, until=now + timedelta(seconds=BEHAVIOUR_SECONDS))

    def due_behaviours(self, limit: int) -> tuple[tuple[Kind, str], ...]:
        """Return which processes are due for their behaviour (for the sweep)."""
        return tuple(self.store.due_behaviours(now=self.recorder.clock(), limit=limit))

    def _until(self, now: datetime) -> datetime:
        return now + timedelta(seconds=self.recorder.lease_seconds)

    def _process(self, row: OutboxRow) -> Process | None:
        return self.store.negotiation(row.pid) if row.kind is Kind.NEGOTIATION else self.store.transfer(row.pid)

    def _with_peer_pid(self, row: OutboxRow) -> OutboxRow | None:
        """Fill in the peer's pid where it was not known when the message was written; ``None`` while it is not."""
        if UNKNOWN_PID not in row.url:
            return row
        process = self._process(row)
        if process is None or process.peer_pid is None:
            return None
        body: dict[str, Any] = json.loads(row.body)
        body["providerPid" if process.role is Role.CONSUMER else "consumerPid"] = process.peer_pid
        url = row.url.replace(UNKNOWN_PID, quote(process.peer_pid, safe=":"))
        return dataclasses.replace(row, url=url, body=json.dumps(body, ensure_ascii=False, separators=(",", ":")))

    def _taken(self, taken: Taken) -> OutboxRow | None:
        """Write that a message was taken, with others that wait for it; returns the process's next row, leased."""
        following: OutboxRow | None = None
        failed: Exception | None = None
        for batch in self.taken.batches(taken):
            try:
                found = self._finished(batch)
            except Exception as error:  # noqa: BLE001 - raised below; whoever waits must not wait for ever
                # Others' messages are sent again when their leases run out: ours must not pay for it.
                failed = error if taken in batch else failed
                continue
            for row in found:
                if row.pid == taken.row.pid:
                    following = row
                else:
                    self.recorder.doorbell.row(row)
        if failed is not None:
            raise failed
        return following

    def _finished(self, batch: Sequence[Taken]) -> list[OutboxRow]:
        try:
            following = self.store.run("outbox.sent", lambda uow: self._finish(uow, batch))
            return [row for known in following if (row := known()) is not None]
        except Exception:
            if len(batch) == 1:
                raise
        # One that cannot be written must not keep the others from it; its lease runs out, and it is sent again.
        found: list[OutboxRow] = []
        for one in batch:
            with contextlib.suppress(Exception):
                found += self._finished([one])
        return found

    def _finish(self, uow: UnitOfWork, batch: Sequence[Taken]) -> list[Following]:
        """Write that messages were taken; return who knows their processes' next rows, leased."""
        # First what locks processes, as everybody does.
        for one in batch:
            if one.peer_pid is not None:
                uow.learn_peer_pid(one.row.pid, one.peer_pid)
        for one in batch:
            uow.finish(one.row, at=self.recorder.clock(), answer_status=one.status)
        return [self._next(uow, one.row) for one in batch]

    def _next(self, uow: UnitOfWork, row: OutboxRow) -> Following:
        lease, now = self.recorder.doorbell.lease, self.recorder.clock()
        return uow.lease_next(row.pid, lease=lease, now=now, until=self._until(now)) if lease else _nothing

    def _again(
        self, row: OutboxRow, answer: PeerAnswer | None, *, said: str = _SILENT, silent: bool = False
    ) -> OutboxRow | None:
        unborn = is_first(row) and answer is not None and answer.status == HTTPStatus.NOT_FOUND
        quiet = self.standings.silent(row.audience, self.recorder.clock()) if silent else None
        if row.attempts >= (self.retry.first_attempts if unborn else self.retry.attempts):
            return self._reconcile(row, answer)

        def work(uow: UnitOfWork) -> None:
            self._put_off(uow, row, answer, said, quiet)
            if quiet is not None:
                uow.hold(row.audience, until=quiet, now=self.recorder.clock())
                uow.on_commit(lambda: self.recorder.doorbell.later(quiet))

        return self.store.run("outbox.again", work)

    def _put_off(
        self,
        uow: UnitOfWork,
        row: OutboxRow,
        answer: PeerAnswer | None,
        said: str = _SILENT,
        not_before: datetime | None = None,
    ) -> None:
        due = self.recorder.clock() + self.retry.pause(row.attempts)
        due = due if not_before is None else max(due, not_before)
        if self._settle(uow, row, OutboxStatus.QUEUED, answer, due_at=due, said=said):
            uow.on_commit(lambda: self.recorder.doorbell.later(due))

    def _settle(
        self,
        uow: UnitOfWork,
        row: OutboxRow,
        status: OutboxStatus,
        answer: PeerAnswer | None,
        due_at: datetime | None = None,
        said: str | None = _SILENT,
    ) -> bool:
        code: str | None = None
        if answer is not None:
            code, said = self._readable(answer)
        return uow.settle(
            row,
            status=status,
            at=self.recorder.clock(),
            answer_status=answer.status if answer else None,
            answer_code=code,
            answer=said,
            due_at=due_at,
        )

    def _readable(self, answer: PeerAnswer) -> tuple[str | None, str | None]:
        """What a peer said, fit for a text column and a page: its code and reasons, else the start of the body."""
        if HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            return None, None
        try:
            said = replies.read_refusal(answer.body, self.expand)
            if said.code or said.reasons:
                return said.code, "; ".join(said.reasons)[:_KEPT_ANSWER]
        except MalformedMessageError:
            pass
        return None, answer.body[:_KEPT_ANSWER].decode(errors="replace").replace("\0", "")

    def _peer_pid(self, row: OutboxRow, body: bytes) -> str | None:
        # Peers may answer a first message with an empty body; then their own next message tells us their pid.
        try:
            said = replies.read_standing(body, self.expand)
        except MalformedMessageError:
            return None
        ours = json.loads(row.body)
        asked = ours.get("consumerPid") and not ours.get("providerPid")
        return said.provider_pid if asked else said.consumer_pid

    def _reconcile(self, row: OutboxRow, answer: PeerAnswer | None) -> OutboxRow | None:
        process = self._process(row)
        peer_state = self._peer_state(process) if process else None

        def work(uow: UnitOfWork) -> Following:
            found: Process | None = (
                uow.negotiation(row.pid, lock=True)
                if row.kind is Kind.NEGOTIATION
                else uow.transfer(row.pid, lock=True)
            )
            if found is None:
                self._settle(uow, row, OutboxStatus.DEAD, answer)
                return _nothing
            tired = row.attempts >= self.retry.attempts
            refused = (
                answer is not None and answer.status not in NOT_YET and answer.status < HTTPStatus.INTERNAL_SERVER_ERROR
            )
            verdict = reconciliation.judge(found, peer_state, step=row.step, refused=refused, tired=tired)
            return self._apply(uow, row, found, verdict, answer, peer_state)

        return self.store.run("outbox.reconcile", work)()

    def _apply(
        self,
        uow: UnitOfWork,
        row: OutboxRow,
        process: Process,
        verdict: Verdict,
        answer: PeerAnswer | None,
        peer_state: str | None,
    ) -> Following:
        reason = self._reason(row, process, answer, peer_state)
        match verdict:
            case Verdict.ARRIVED:
                self._settle(uow, row, OutboxStatus.SENT, answer)
                return self._next(uow, row)
            case Verdict.WAIT:
                self._put_off(uow, row, answer)
                return _nothing
            case Verdict.GIVE_UP:
                self._settle(uow, row, OutboxStatus.DEAD, answer)
                return self._next(uow, row)
            case Verdict.ADOPT | Verdict.TERMINATE:
                if not self._settle(uow, row, OutboxStatus.DEAD, answer):
                    return _nothing
                uow.drop_queued(row.pid)
                silent = verdict is Verdict.ADOPT or (is_first(row) and process.peer_pid is None)
                self._end(uow, process, peer_state if verdict is Verdict.ADOPT else None, reason, silent=silent)
                return _nothing

    def _end(self, uow: UnitOfWork, process: Process, state: str | None, reason: str, *, silent: bool) -> None:
        now = self.recorder.clock()
        if isinstance(process, Negotiation):
            ended: Outcome[Negotiation] = (
                negotiation.adopt(process, NegotiationState(state or "TERMINATED"), reason=reason, now=now)
                if silent
                else negotiation.intend(process, Terminate(reasons=(reason,), code="delivery-failed"), now=now)
            )
            if ended.value.state is NegotiationState.FINALIZED and process.agreement is not None:
                uow.add_agreement(agreement.record(ended.value, process.agreement, now=now))
            self.recorder.write(uow, [ended], new=False)
        else:
            stopped: Outcome[Transfer] = (
                transfer.adopt(process, TransferState(state or "TERMINATED"), reason=reason, now=now)
                if silent
                else transfer.intend(process, End(reasons=(reason,), code="delivery-failed"), now=now)
            )
            self.recorder.write(uow, [stopped], new=False, act_at=now)

    def _peer_state(self, process: Process) -> str | None:
        """Ask the peer where it stands; ``None`` when it does not say."""
        if process.peer_pid is None:
            return None
        folder = "negotiations" if isinstance(process, Negotiation) else "transfers"
        url = f"{process.counterparty.address.rstrip('/')}/{folder}/{quote(process.peer_pid, safe=':')}"
        try:
            answer = self.calls.call("GET", url, audience=process.counterparty.participant_id, max_bytes=MAX_ANSWER)
            if answer.status != HTTPStatus.OK:
                return None
            state = replies.read_standing(answer.body, self.expand).state
        except (PeerUnavailableError, MalformedMessageError):
            return None
        known = NegotiationState if isinstance(process, Negotiation) else TransferState
        return state if state in known.__members__ else None

    def _reason(self, row: OutboxRow, process: Process, answer: PeerAnswer | None, peer_state: str | None) -> str:
        said = "did not answer"
        if answer is not None:
            code, words = self._readable(answer)
            said = f"answered {answer.status}: {': '.join(part for part in (code, words) if part)}"
        where = f"; the peer is in {peer_state}, we were in {process.state}" if peer_state else ""
        return f"{row.step} was not taken after {row.attempts} attempts: the peer {said}{where}"


def _nothing() -> None:
    """Say that no row follows."""


def is_first(row: OutboxRow) -> bool:
    """Return whether a row holds the message that begins a process."""
    return row.url.endswith(("/negotiations/request", "/negotiations/offers", "/transfers/request"))
