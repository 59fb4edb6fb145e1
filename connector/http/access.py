"""Dependencies of routes: who is calling, and may they."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Protocol

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


def require_scope(scope: str) -> Callable[..., Coroutine[Any, Any, OperatorIdentity]]:
    """Return a dependency that gives the operator who sent this request, if it holds ``scope``.

    The dependency raises UnauthorizedError (401) or ForbiddenError (403).
    """

    # On the event loop: checking a token takes less time than handing it to a thread and back.
    async def operator(
        request: Request, _documented: Annotated[object, Security(_OPERATOR)] = None
    ) -> OperatorIdentity:
        verifier: OperatorVerifier = request.app.state.operators
        identity = verifier.verify(request.headers.get("authorization"))
        identity.require(scope)
        return identity

    return operator


Peer = Annotated[PeerIdentity, Depends(require_peer)]
Reader = Annotated[OperatorIdentity, Depends(require_scope("read"))]
Writer = Annotated[OperatorIdentity, Depends(require_scope("write"))]
Admin = Annotated[OperatorIdentity, Depends(require_scope("admin"))]
Auditor = Annotated[OperatorIdentity, Depends(require_scope("audit"))]
