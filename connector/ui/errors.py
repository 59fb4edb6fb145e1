"""What went wrong, in the reader's words: from the rooms' errors to a page with a status."""

from connector.identity.oidc import SignInError
from connector.identity.sessions import SessionTooLargeError
from policies.errors import (
    AgeUnknownError,
    ConsentError,
    ConsentStateError,
    GuardianNeededError,
    GuardianNotAllowedError,
    ReplayedExpressionError,
    UnknownRecordError,
)


class PageError(Exception):
    """A page that cannot be shown or a form that is not taken; ``words`` is a key of the section ``error``."""

    def __init__(self, status: int, words: str) -> None:
        """Name the HTTP status and the words."""
        super().__init__(words)
        self.status = status
        self.words = words


class SignInNeededError(Exception):
    """The page is for people who have signed in; it shows after they do."""

    code = "sign-in-needed"


_CONSENT: tuple[tuple[type[ConsentError], int, str], ...] = (
    (UnknownRecordError, 404, "not_found"),
    (GuardianNeededError, 403, "guardian_needed"),
    (GuardianNotAllowedError, 403, "guardian_unverified"),
    (AgeUnknownError, 403, "age_unknown"),
    (ReplayedExpressionError, 409, "replayed"),
    (ConsentStateError, 409, "state"),
    (ConsentError, 403, "refused"),
)


def page_error(error: Exception) -> PageError | None:
    """Return how an error shows on a page; None when it is nobody's but ours."""
    if isinstance(error, PageError):
        return error
    if isinstance(error, SignInError):
        return PageError(502 if error.code == "provider" else 403, f"sign_in_{error.code}")
    if isinstance(error, SessionTooLargeError):
        return PageError(403, "sign_in_large")
    for kind, status, key in _CONSENT:
        if isinstance(error, kind):
            return PageError(status, key)
    return None
