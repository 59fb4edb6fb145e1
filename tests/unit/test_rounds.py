"""The life of a round, and when it may be closed."""

import dataclasses
import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning.rounds import (
    ROUND_TABLE,
    IllegalRoundMoveError,
    Notice,
    Round,
    RoundEvent,
    RoundKind,
    RoundState,
    move_round,
    quorum,
)

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
S, E = RoundState, RoundEvent
NAMES = ("did:web:a", "did:web:b", "did:web:c", "did:web:d")
OPEN = (S.OPENING, S.TRAINING, S.AGREEING, S.RELEASING)
LEGAL = {
    (S.OPENING, E.ANNOUNCED): S.TRAINING,
    (S.TRAINING, E.SET_FIXED): S.AGREEING,
    (S.AGREEING, E.SET_SIGNED): S.RELEASING,
    (S.RELEASING, E.SUMMED): S.DONE,
    **{(state, E.GIVE_UP): S.ABORTED for state in OPEN},
}


def row(state: RoundState = S.TRAINING, expected: tuple[str, ...] = NAMES) -> Round:
    return Round(
        job_id="urn:uuid:1",
        round=1,
        attempt=1,
        kind=RoundKind.TRAIN,
        state=state,
        model="cd" * 32,
        opened_at=NOW,
        deadline=NOW + timedelta(seconds=60),
        expected=expected,
    )


def words(**uploaded: bool) -> dict[str, Notice]:
    """Return notices: ``a=True`` uploaded, ``b=False`` failed."""
    return {
        f"did:web:{name}": Notice(
            job_id="urn:uuid:1",
            round=1,
            attempt=1,
            participant_id=f"did:web:{name}",
            uploaded=value,
            code=None if value else "no-rows",
            reason=None if value else "nothing to train on",
        )
        for name, value in uploaded.items()
    }


@pytest.mark.parametrize(("state", "event"), list(itertools.product(RoundState, RoundEvent)))
def test_a_round_moves_only_as_its_table_says(state: RoundState, event: RoundEvent) -> None:
    """A legal event leads to its state; every other one is a bug of ours."""
    expected = LEGAL.get((state, event))
    assert ROUND_TABLE.get((state, event)) is expected
    if expected is None:
        with pytest.raises(IllegalRoundMoveError):
            move_round(row(state), event)
        return
    assert move_round(row(state), event, "why") == dataclasses.replace(row(state), state=expected, reason="why")


def test_a_round_waits_for_those_who_are_silent() -> None:
    """Before the deadline a round waits as long as somebody may still contribute, even when k have."""
    assert not quorum(row(), words(a=True, b=True, c=True), 2, NOW).ready


def test_a_round_closes_when_everybody_has_spoken() -> None:
    """With a word from everyone the round goes on at once with those who uploaded, in order."""
    answer = quorum(row(), words(d=True, c=False, a=True, b=True), 2, NOW)
    assert (answer.ready, answer.contributors) == (True, ("did:web:a", "did:web:b", "did:web:d"))


def test_a_round_closes_at_its_deadline_with_k_of_n() -> None:
    """At the deadline k contributions are enough, whoever is silent."""
    assert quorum(row(), words(a=True, b=True), 2, NOW + timedelta(seconds=60)).contributors == NAMES[:2]


def test_a_round_gives_up_at_its_deadline_and_says_why() -> None:
    """Below k the reason counts the contributions and names every cause."""
    answer = quorum(row(), words(a=True, b=False), 2, NOW + timedelta(seconds=60))
    assert answer.reason == (
        "round 1: 1 of 4 contributions, 2 needed "
        "(no-rows: nothing to train on; no word from 2 of 4 contributors by the deadline)"
    )


def test_a_round_gives_up_early_when_k_cannot_be_reached() -> None:
    """When too many have failed nobody waits for the deadline."""
    answer = quorum(row(expected=NAMES[:3]), words(a=False, b=False), 2, NOW)
    assert answer.reason is not None
    assert answer.reason.startswith("round 1: 0 of 3 contributions, 2 needed")


def test_words_of_strangers_do_not_count() -> None:
    """Only those that the round was announced to are counted."""
    answer = quorum(row(expected=NAMES[:2]), words(a=True, c=True, d=True), 2, NOW + timedelta(seconds=60))
    assert not answer.ready


@given(
    heard=st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.booleans()),
    minimum=st.integers(2, 4),
    after=st.integers(0, 120),
)
def test_a_round_never_closes_below_k_and_always_decides_in_time(
    heard: dict[str, bool], minimum: int, after: int
) -> None:
    """Whatever was heard: k or more contribute, or a reason is given; and after the deadline there is a decision."""
    answer = quorum(row(), words(**heard), minimum, NOW + timedelta(seconds=after))
    if answer.ready:
        assert len(answer.contributors) >= minimum
        assert set(answer.contributors) == {f"did:web:{name}" for name, value in heard.items() if value}
    assert not (answer.ready and answer.reason)
    if after >= 60 or len(heard) == 4:
        assert answer.ready or answer.reason
