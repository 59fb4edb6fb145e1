"""The room's state machines as pictures, printed from their tables; the README shows exactly these."""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from learning.jobs import JOB_TABLE, PARTICIPATION_TABLE, JobState, ParticipationState
from learning.rounds import ROUND_TABLE, RoundState
from learning.secagg.conduct_state import GROUP_TABLE, GroupState

_S = TypeVar("_S", bound=StrEnum)
_E = TypeVar("_E", bound=StrEnum)


def job_diagram() -> str:
    """Return the life of a job at its collector as a Mermaid state diagram."""
    return _diagram(JOB_TABLE, JobState.RECRUITING)


def participation_diagram() -> str:
    """Return the life of a provider's part in a job as a Mermaid state diagram."""
    return _diagram(PARTICIPATION_TABLE, ParticipationState.WAITING_FOR_CONSENT)


def round_diagram() -> str:
    """Return the life of an attempt at a round as a Mermaid state diagram."""
    return _diagram(ROUND_TABLE, RoundState.OPENING)


def group_diagram() -> str:
    """Return the life of a group of seats in an attempt as a Mermaid state diagram."""
    return _diagram(GROUP_TABLE, GroupState.COLLECTING)


def _diagram(table: Mapping[tuple[_S, _E], _S], first: _S) -> str:
    moves = [f"    {state} --> {target}: {event}" for (state, event), target in table.items()]
    left = {state for state, _ in table}
    ends = [f"    {state} --> [*]" for state in type(first) if state not in left]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {first}", *moves, *ends])
