"""What can be wrong with a caller's identity. The messages are safe to show: they never quote a token."""


class UnauthorizedError(Exception):
    """The caller did not prove who it is; the peer's fault."""

    def __init__(self, code: str, detail: str) -> None:
        """Name the problem by a stable ``code`` and say in ``detail`` what the caller must change."""
        super().__init__(detail)
        self.code = code


class ForbiddenError(Exception):
    """The caller is known but its token lacks the scope; the caller's fault."""

    code = "insufficient-scope"


class OverloadedError(Exception):
    """More distinct tokens arrive than we can remember until they expire; ours, and passing."""

    code = "too-many-tokens"


class IdentityFileError(Exception):
    """A key, membership or authority file is missing or not what it should be; ours (the operator's)."""

    code = "identity-file"
