"""Dependencies of routes: who is calling, and may they."""

import dataclasses
from typing import Annotated, Protocol

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer

from connector.identity.membership import PeerIdentity
from connector.identity.operators import OperatorIdentity, OperatorVerifier

# These only describe the header in the OpenAPI documents; the verifiers read it themselves.
_PEER = HTTPBearer(auto_error=False, scheme_name="participant", description="A request token signed by a participant.")
_OPERATOR = HTTPBearer(auto_error=False, scheme_name="operator", description="An operator's token.")


class PeerVerifier(Protocol):
    """Turns an ``Authorization`` header into the participant that sent it."""

    def verify(self, header: str | None) -> PeerIdentity:
        """Return the caller or raise UnauthorizedError."""
        ...


def require_peer(request: Request, _documented: Annotated[object, Security(_PEER)] = None) -> PeerIdentity:
    """Return the participant that sent this request (use as ``Depends(require_peer)``).

    Raises:
        UnauthorizedError: the caller is nobody we know; answered with 401.
    """
    verifier: PeerVerifier = request.app.state.peers
    return verifier.verify(request.headers.get("authorization"))


@dataclasses.dataclass(frozen=True)
class Scoped:
    """A dependency that gives the operator who sent a request, if it holds ``scope``."""

    scope: str

    # On the event loop: checking a token takes less time than handing it to a thread and back.
    async def __call__(
        self, request: Request, _documented: Annotated[object, Security(_OPERATOR)] = None
    ) -> OperatorIdentity:
        """See :meth:`check`."""
        return self.check(request)

    def check(self, request: Request) -> OperatorIdentity:
        """Return the operator that sent this request.

        Raises:
            UnauthorizedError: it is nobody we know; answered with 401.
            ForbiddenError: it does not hold the scope; answered with 403.
        """
        verifier: OperatorVerifier = request.app.state.operators
        identity = verifier.verify(request.headers.get("authorization"))
        identity.require(self.scope)
        return identity


Peer = Annotated[PeerIdentity, Depends(require_peer)]
Reader = Annotated[OperatorIdentity, Depends(Scoped("read"))]
Writer = Annotated[OperatorIdentity, Depends(Scoped("write"))]
Admin = Annotated[OperatorIdentity, Depends(Scoped("admin"))]
Auditor = Annotated[OperatorIdentity, Depends(Scoped("audit"))]
