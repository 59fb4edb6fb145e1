"""What can go wrong with a policy or a consent, and whose fault it is.

Three families: what was sent to us is wrong (:class:`PolicyFormatError`, :class:`ConsentRefusedError` and its kin), what
was asked for is not there (:class:`UnknownRecordError`), and evidence that does not hold (:class:`EvidenceError`).
Every class has a stable ``code``; a status code is the business of the room that speaks HTTP.
"""

from typing import ClassVar


class PolicyError(Exception):
    """The root of this room's errors."""

    code: ClassVar[str] = "policy"


class PolicyFormatError(PolicyError, ValueError):
    """A policy or a JSON-LD document from outside is not one we can read; the sender's fault."""

    code = "policy-format"


class ConsentError(PolicyError):
    """The root of what can go wrong with consent."""

    code = "consent"


class ConsentFormatError(ConsentError, ValueError):
    """A notice or a consent expression is malformed; the sender's fault."""

    code = "consent-format"


class UnknownSubjectError(ConsentFormatError):
    """A yes for somebody of whom the source holds nothing: most likely a wrong id; the sender's fault."""

    code = "unknown-subject"


class ConsentRefusedError(ConsentError):
    """The person may not express this, or not in this way; ``code`` says why."""

    code = "consent-refused"


class ConsentStateError(ConsentError):
    """The event does not apply to the record in its present state (a grant of what is already granted)."""

    code = "consent-state"


class ReplayedExpressionError(ConsentError):
    """An expression id comes back with another content, or an expression is older than what we already know."""

    code = "consent-replayed"


class GuardianNeededError(ConsentRefusedError):
    """A minor below the age of consent of their country answered alone (GDPR article 8)."""

    code = "guardian-needed"


class GuardianNotAllowedError(ConsentRefusedError):
    """A guardian answered for an adult, for somebody else's child, or without a verification we know."""

    code = "guardian-not-allowed"


class AgeUnknownError(ConsentRefusedError):
    """Nothing says how old the subject is, so nobody can tell who may answer."""

    code = "age-unknown"


class NoticeError(ConsentRefusedError):
    """The notice is expired, not the current one, not ours, or does not name the purpose."""

    code = "notice"


class NoticeVersionError(ConsentError):
    """A notice changes what people agreed to without a new version."""

    code = "notice-version"


class UnknownRecordError(ConsentError, LookupError):
    """No such notice or record, or it is not the caller's: the two are not told apart."""

    code = "not-found"


class EvidenceError(ConsentError, ValueError):
    """A receipt, a record or a chain of events does not verify."""

    code = "evidence"
