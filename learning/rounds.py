"""The life of a round: one row with its attempt, its deadline and k-of-n, at the collector; steps and seat rounds at providers."""

import dataclasses
import enum
from collections.abc import Mapping
from datetime import datetime
from typing import Any

OPENING_KIND = "round-opening"
# A step's code when a provider's policy does not let the model leave the job: the job must not complete.
RELEASE_DENIED = "release-denied"


class RoundKind(enum.StrEnum):
    """``train`` rounds carry updates; ``evaluate`` rounds carry only metrics of the final model."""

    TRAIN = "train"
    EVALUATE = "evaluate"


class RoundState(enum.StrEnum):
    """A round (attempt) at its collector."""

    OPENING = "OPENING"
    TRAINING = "TRAINING"
    AGREEING = "AGREEING"
    RELEASING = "RELEASING"
    DONE = "DONE"
    ABORTED = "ABORTED"


class RoundEvent(enum.StrEnum):
    """What moves a round."""

    ANNOUNCED = "announced to the contributors"
    SET_FIXED = "k of n reported, or deadline"
    SET_SIGNED = "quorum signed the set"
    SUMMED = "all seats released"
    GIVE_UP = "cannot be completed"


_S, _E = RoundState, RoundEvent

ROUND_TABLE: dict[tuple[RoundState, RoundEvent], RoundState] = {
    (_S.OPENING, _E.ANNOUNCED): _S.TRAINING,
    (_S.OPENING, _E.GIVE_UP): _S.ABORTED,
    (_S.TRAINING, _E.SET_FIXED): _S.AGREEING,
    (_S.TRAINING, _E.GIVE_UP): _S.ABORTED,
    (_S.AGREEING, _E.SET_SIGNED): _S.RELEASING,
    (_S.AGREEING, _E.GIVE_UP): _S.ABORTED,
    (_S.RELEASING, _E.SUMMED): _S.DONE,
    (_S.RELEASING, _E.GIVE_UP): _S.ABORTED,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    """One attempt at one round, at the collector.

    ``expected`` are the contributors it is announced to; ``lost`` the seats whose work others have taken over;
    ``chased`` how often missing shares were asked for; ``extended`` says that its deadline was moved once.
    """

    job_id: str
    round: int
    attempt: int
    kind: RoundKind
    state: RoundState
    model: str
    opened_at: datetime
    deadline: datetime
    expected: tuple[str, ...]
    announced: tuple[str, ...] = ()
    proposed: list[list[str]] | None = None
    statements: tuple[dict[str, Any], ...] = ()
    lost: tuple[int, ...] = ()
    metrics: dict[str, Any] | None = None
    timing: dict[str, float] = dataclasses.field(default_factory=dict)
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)
    reason: str | None = None
    chased: int = 0
    extended: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Notice:
    """What a contributor told the collector about its step: uploaded, or failed and why. Never data."""

    job_id: str
    round: int
    attempt: int
    participant_id: str
    uploaded: bool
    header_digest: str | None = None
    code: str | None = None
    reason: str | None = None


class StepState(enum.StrEnum):
    """A contributor's own work in one round attempt."""

    TRAINING = "TRAINING"
    UPLOADING = "UPLOADING"
    DONE = "DONE"
    FAILED = "FAILED"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """A contributor's own work in one round attempt, at the provider. ``local`` is the provider's own card."""

    job_id: str
    round: int
    attempt: int
    kind: RoundKind
    state: StepState
    model: str
    opening: dict[str, Any]
    opened_at: datetime
    deadline: datetime
    package: dict[str, Any] | None = dataclasses.field(default=None, repr=False)
    delivered: tuple[int, ...] = ()
    code: str | None = None
    reason: str | None = None
    local: dict[str, Any] | None = None
    cost: dict[str, float] = dataclasses.field(default_factory=dict)


class SeatState(enum.StrEnum):
    """A seat's own work in one round attempt."""

    COLLECTING = "COLLECTING"
    SIGNED = "SIGNED"
    RELEASING = "RELEASING"
    RELEASED = "RELEASED"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeatRound:
    """What one seat has signed and released in one round attempt: one set, one release, ever."""

    job_id: str
    round: int
    attempt: int
    state: SeatState
    set_document: dict[str, Any] | None = None
    release_order: dict[str, Any] | None = None
    released: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeatUpload:
    """What one seat holds of one contributor in one round attempt: the header, its sealed box, maybe the vector."""

    job_id: str
    round: int
    attempt: int
    participant_id: str
    header_digest: str
    header: dict[str, Any]
    box: str = dataclasses.field(repr=False)
    vector: str | None = None


class IllegalRoundMoveError(Exception):
    """Our own code asked for a move that the table does not know: a bug."""


def move_round(value: Round, event: RoundEvent, reason: str | None = None) -> Round:
    """Return the round after ``event``.

    Raises:
        IllegalRoundMoveError: the table has no such move.
    """
    state = ROUND_TABLE.get((value.state, event))
    if state is None:
        raise IllegalRoundMoveError(f"a round in {value.state} does not move on '{event}'")
    return dataclasses.replace(value, state=state, reason=reason or value.reason)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quorum:
    """The answer of :func:`quorum`: wait, or go on with these contributors, or give up for this reason."""

    ready: bool
    contributors: tuple[str, ...] = ()
    reason: str | None = None


def quorum(value: Round, notices: Mapping[str, Notice], minimum: int, now: datetime) -> Quorum:
    """Decide whether a round may be closed: everyone has spoken, or the deadline has passed with k of n.

    Args:
        value: the round, with the contributors it expects.
        notices: by participant id.
        minimum: k, the fewest contributors whose sum may be opened.
        now: the time.
    """
    uploaded = tuple(sorted(name for name in value.expected if name in notices and notices[name].uploaded))
    silent = [name for name in value.expected if name not in notices]
    if silent and now < value.deadline and len(value.expected) - _failed(value, notices) >= minimum:
        return Quorum(ready=False)
    if len(uploaded) >= minimum:
        return Quorum(ready=True, contributors=uploaded)
    reasons = sorted({f"{notice.code}: {notice.reason}" for notice in notices.values() if not notice.uploaded})
    if silent:
        reasons.append(f"no word from {len(silent)} of {len(value.expected)} contributors by the deadline")
    return Quorum(
        ready=False,
        reason=f"round {value.round}: {len(uploaded)} of {len(value.expected)} contributions, "
        f"{minimum} needed ({'; '.join(reasons)})",
    )


def _failed(value: Round, notices: Mapping[str, Notice]) -> int:
    return sum(1 for name in value.expected if name in notices and not notices[name].uploaded)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeatShare:
    """A share that one seat released to the collector in one round attempt; ``number`` counts its shares."""

    job_id: str
    round: int
    attempt: int
    seat: int
    number: int
    document: dict[str, Any]
    vector: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClearUpload:
    """A plain contribution at the collector, under a contract that allows ``clear``."""

    job_id: str
    round: int
    attempt: int
    participant_id: str
    header_digest: str
    vector: str
