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

    ``expected`` are the providers it is announced to; ``proposed`` those of them that are in the sum, each with the
    digest of what it uploaded; ``counted`` how many contributions those are; ``replaced`` the seats that were replaced
    in the job before the round opened, by group and column; ``groups`` what became of each group, once the sum is
    opened; ``lost`` the seats of a star whose work others have taken over; ``extended`` says that the deadline was
    moved once; ``challenge`` is what is known of the shares where their seats were challenged
    (see `learning.challenges`).
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
    counted: int = 0
    replaced: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    groups: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    lost: tuple[int, ...] = ()
    metrics: dict[str, Any] | None = None
    timing: dict[str, float] = dataclasses.field(default_factory=dict)
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)
    reason: str | None = None
    extended: bool = False
    challenge: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupAttempt:
    """One group of the execution tree in one attempt, at the collector: its state, and what its seats have said.

    Times are seconds since the attempt was opened. ``value`` is a `learning.secagg.conduct_state.GroupRound` as JSON;
    ``statements`` are the seats' signatures on ``value``'s set; ``heard`` says when a seat last answered anything,
    ``holds`` for which set a seat of an inner group has all it needs.
    """

    job_id: str
    round: int
    attempt: int
    group: str
    state: str
    value: dict[str, Any]
    statements: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    refused: tuple[str, ...] = ()
    heard: dict[str, float] = dataclasses.field(default_factory=dict)
    missing: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    holds: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Notice:
    """What a provider told the collector about its step: uploaded, or failed and why. Never data.

    ``uploads`` names what each of its contributors uploaded to which leaf group, where they are more than one.
    """

    job_id: str
    round: int
    attempt: int
    participant_id: str
    uploaded: bool
    header_digest: str | None = None
    code: str | None = None
    reason: str | None = None
    uploads: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)


class StepState(enum.StrEnum):
    """A contributor's own work in one round attempt."""

    TRAINING = "TRAINING"
    UPLOADING = "UPLOADING"
    DONE = "DONE"
    FAILED = "FAILED"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """A provider's own work in one round attempt. ``local`` is its own card.

    ``package`` says what is uploaded; ``delivered`` and ``carried`` are slots (see `learning.deliver`) of seats that
    have their headers and boxes, and of first carriers whose vectors have been taken by somebody.
    """

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
    carried: tuple[int, ...] = ()
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
    """What one seat has signed and released in one round attempt: one set, one release, ever.

    ``shares`` are kept until the round is over, for a parent's seat that is replaced: header and blob of each.
    ``challenge`` is the one coin under which this seat has answered for the others' shares.
    """

    job_id: str
    round: int
    attempt: int
    group: str
    state: SeatState
    set_document: dict[str, Any] | None = None
    release_order: dict[str, Any] | None = None
    released: tuple[int, ...] | None = None
    released_blank: tuple[int, ...] = ()
    shares: tuple[dict[str, Any], ...] = ()
    challenge: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeatUpload:
    """What one seat holds of one contributor in one round attempt: the header, the seeds of its box, maybe the vector.

    A copy may have its vector before its box. ``kept`` holds the seeds (base64), sealed with a key that dies with the
    epoch; None before the box came. ``first`` says that we took the vector from its contributor, and hand it to the
    other seats that store it.
    """

    job_id: str
    round: int
    attempt: int
    participant_id: str
    header_digest: str
    header: dict[str, Any]
    kept: str | None = dataclasses.field(default=None, repr=False)
    vector: str | None = None
    first: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeatParcel:
    """What one seat holds of many contributors of one provider: a parcel, in one blob, boxes opened and kept as above.

    ``accepted`` lists [contributor, header digest, whether its box came, whether its vector did].
    """

    job_id: str
    round: int
    attempt: int
    group: str
    participant_id: str
    blob: str
    accepted: list[tuple[str, str, bool, bool]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChildShare:
    """A share that a seat of a child group handed up to our seat in its parent; ``group`` is the child."""

    job_id: str
    round: int
    attempt: int
    group: str
    digest: str
    seat: str
    document: dict[str, Any]
    vector: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class SketchAnswers:
    """What one seat of a group answered for the others' shares, at whoever holds those shares; ``blob`` has the sketches."""

    job_id: str
    round: int
    attempt: int
    group: str
    participant_id: str
    at: datetime
    shares: tuple[str, ...]
    nonce: str
    blob: str


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
    """A share that one seat released in one round attempt, by the digest of its signed header.

    Shares of the top group come with their bytes (``vector``); of the others the collector sees the header only.
    """

    job_id: str
    round: int
    attempt: int
    group: str
    digest: str
    seat: str
    document: dict[str, Any]
    at: datetime
    vector: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClearUpload:
    """A plain contribution at the collector, under a contract that allows ``clear``."""

    job_id: str
    round: int
    attempt: int
    participant_id: str
    header_digest: str
    vector: str
