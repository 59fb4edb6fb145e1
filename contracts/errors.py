"""What can go wrong in this room, and whose fault it is.

``whose`` is ``"peer"`` (the counterparty sent what it may not), ``"ours"`` (an operator or a caller of this room asked
for what is not possible) or ``"world"`` (nobody's: a time-out, a machine that is down). ``code`` is stable.
"""


class ContractError(Exception):
    """Base of every error of this room; ``pids`` are the consumer's and the provider's of the process it is about."""

    code = "contract-error"
    whose = "ours"
    pids: tuple[str | None, str | None] | None = None


class MalformedMessageError(ContractError):
    """The body is not a DSP message of the expected kind."""

    code, whose = "malformed", "peer"


class UnsupportedFilterError(ContractError):
    """A catalog filter that this connector does not know."""

    code, whose = "filter-unsupported", "peer"


class CursorError(ContractError):
    """A page token that this connector did not hand out."""

    code, whose = "cursor-unknown", "peer"


class IllegalTransitionError(ContractError):
    """The transition table has no such step (DSP 2025-1, sections "State Machine")."""

    code, whose = "illegal-transition", "peer"


class UnknownProcessError(ContractError):
    """No such process or dataset, or the caller is not entitled to it; the two look the same on purpose."""

    code, whose = "not-found", "peer"


class ConflictingRepeatError(ContractError):
    """A message id came again with other bytes."""

    code, whose = "conflict", "peer"


class CallbackRefusedError(ContractError):
    """A callback address that does not lie under the authenticated peer's own address."""

    code, whose = "callback-refused", "peer"


class RequestRefusedError(ContractError):
    """A well-formed message that asks for something this connector does not offer."""

    code, whose = "refused", "peer"


class IllegalCommandError(ContractError):
    """An operator's command that the process's state does not allow."""

    code, whose = "illegal-command", "ours"


class PolicyDeniedError(ContractError):
    """The usage policy does not allow this step; ``reasons`` say which constraint."""

    code, whose = "policy-denied", "ours"

    def __init__(self, reasons: tuple[str, ...]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class PeerUnavailableError(ContractError):
    """The peer could not be reached or did not answer in time."""

    code, whose = "peer-unavailable", "world"


class PeerAnswerError(ContractError):
    """The peer answered with something that cannot be used."""

    code, whose = "peer-answer", "peer"


class TransferRefusedError(ContractError):
    """The provider will not start a transfer; the text is the reason that the consumer is given."""

    code, whose = "transfer-refused", "ours"
