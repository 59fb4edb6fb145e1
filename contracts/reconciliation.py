"""What to do when a peer will not take a message: a pure judgement over both states and the tables."""

from enum import StrEnum

from contracts import states, transfers
from contracts.processes import Negotiation, Process
from contracts.recorder import is_final
from contracts.states import NegotiationState, NegotiationStep, Role
from contracts.transfers import TransferState, TransferStep


class Verdict(StrEnum):
    """ARRIVED: the message had been taken after all. WAIT: try again later. ADOPT: take over the peer's end.
    TERMINATE: end the process, saying why. GIVE_UP: we have ended already and need not agree with a peer that has too.
    """  # noqa: D205 - one line per member reads best

    ARRIVED = "arrived"
    WAIT = "wait"
    ADOPT = "adopt"
    TERMINATE = "terminate"
    GIVE_UP = "give-up"


def judge(process: Process, peer_state: str | None, *, step: str, refused: bool, tired: bool) -> Verdict:
    """Return what to do with a message that the peer did not take.

    Args:
        process: our side as it is now.
        peer_state: the peer's state, ``None`` when it does not say.
        step: the step that the message stands for.
        refused: whether the peer refused it for good (a 4xx that does not mean "not yet").
        tired: whether all attempts are used up.
    """
    if peer_state == process.state:
        return Verdict.ARRIVED
    if peer_state is not None and _adoptable(process, peer_state):
        return Verdict.ADOPT
    if is_final(process):
        # We have ended; a peer that has not must hear so, as long as there are attempts left.
        return Verdict.GIVE_UP if tired or (peer_state is not None and _ends(process, peer_state)) else Verdict.WAIT
    return Verdict.WAIT if not tired and _may_come(process, peer_state, step, refused=refused) else Verdict.TERMINATE


def _may_come(process: Process, peer_state: str | None, step: str, *, refused: bool) -> bool:
    """Whether time alone can settle it: the peer's own message is on the way, or it can still take ours."""
    if peer_state is None or _ends(process, peer_state):
        return False
    if _legal(process, peer_state, step):
        # It could take the step where it stands. If it refuses for good, it has its reasons.
        return not refused
    return _peer_is_ahead(process, peer_state)


def _ends(process: Process, peer_state: str) -> bool:
    return peer_state in (states.FINAL if isinstance(process, Negotiation) else transfers.FINAL)


def _adoptable(process: Process, peer_state: str) -> bool:
    """Whether the peer's end can be ours.

    Where both have ended differently because their last messages crossed, the consumer follows the provider. FINALIZED
    binds, so only a consumer that has verified the agreement takes it over.
    """
    if not _ends(process, peer_state) or (is_final(process) and process.role is Role.PROVIDER):
        return False
    if isinstance(process, Negotiation) and peer_state == NegotiationState.FINALIZED:
        return process.role is Role.CONSUMER and process.verified and process.agreement is not None
    return True


def _peer_is_ahead(process: Process, peer_state: str) -> bool:
    """Whether one step of the peer leads from our state to its own: its message is on the way."""
    if isinstance(process, Negotiation):
        return peer_state in states.TABLE[process.role.other].get(process.state, {}).values()
    return peer_state in transfers.TABLE[process.role.other].get(process.state, {}).values()


def _legal(process: Process, peer_state: str, step: str) -> bool:
    """Whether the peer, where it stands, could still take the step."""
    if isinstance(process, Negotiation):
        return states.is_legal(process.role, NegotiationState(peer_state), NegotiationStep(step))
    return transfers.is_legal(process.role, TransferState(peer_state), TransferStep(step))
