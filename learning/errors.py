"""What can go wrong in this room, and whose fault it is. One file in connector.http maps these to HTTP."""


class LearningError(Exception):
    """Root of this room's errors; ``code`` is stable and safe to show to a peer."""

    code = "learning-error"


class RefusedError(LearningError):
    """The peer asked for something it may not have, or that contradicts what was agreed (the peer's fault)."""

    code = "refused"

    def __init__(self, code: str, message: str) -> None:
        """Refuse with a stable ``code`` and one sentence for the peer's operator."""
        super().__init__(message)
        self.code = code


class RoundOverError(RefusedError):
    """The round's epoch is over, and what opened its boxes is erased; there is nothing left to do for it."""

    def __init__(self) -> None:
        """Refuse with the code ``round-over``."""
        super().__init__("round-over", "that round is over; the keys of its time are erased")


class UnknownError(LearningError):
    """No such job, round or plan, or the caller has no part in it; both look the same to a peer."""

    code = "not-found"


class ConflictError(LearningError):
    """The same message id came with other bytes, or the object has moved on (the peer's fault)."""

    code = "conflict"


class NotYetError(LearningError):
    """What is asked for will be possible later; the caller should ask again."""

    code = "not-yet"


class PeerError(LearningError):
    """A peer did not answer, or answered with something we cannot use (the peer's or the network's fault)."""

    code = "peer-failed"

    def __init__(self, message: str, *, code: str = "peer-failed", final: bool = False, answered: bool = False) -> None:
        """Describe the failure; ``final`` says that asking again cannot help, ``answered`` that the peer spoke."""
        super().__init__(message)
        self.code = code
        self.final = final
        self.answered = answered


class StepFailedError(LearningError):
    """A local step failed beside the data: source gone, sandbox violation, timeout (ours or the source's fault)."""

    code = "step-failed"

    def __init__(self, code: str, message: str, *, final: bool = True) -> None:
        """Describe the failure without data; ``final`` says that a retry of the same step cannot help."""
        super().__init__(message)
        self.code = code
        self.final = final


class PlanError(LearningError, ValueError):
    """A training plan is malformed or contradicts itself (its author's fault)."""

    code = "bad-plan"
