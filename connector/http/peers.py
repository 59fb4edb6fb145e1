"""Management routes for the participants we know."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Self

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from connector.http.access import Reader, Writer
from connector.http.problems import ProblemError
from connector.identity.errors import UnauthorizedError
from connector.identity.membership import PeerIdentity
from connector.peers.client import PeerUnreachableError
from connector.peers.directory import PeerDirectory
from connector.settings import BaseUrl


class PeerRequest(BaseModel):
    """The public base URL of a participant, as an operator types it."""

    model_config = ConfigDict(extra="forbid")

    address: BaseUrl = Field(max_length=500, examples=["https://school.example/orchard"])


class PeerView(BaseModel):
    """A participant we know."""

    participant_id: str
    name: str
    organisation: str
    address: str
    roles: list[str]
    public_key: str
    membership_expires: datetime | None = None

    @classmethod
    def of(cls, identity: PeerIdentity, expires: datetime | None = None) -> Self:
        """Show an identity."""
        return cls(
            participant_id=identity.participant_id,
            name=identity.name,
            organisation=identity.organisation,
            address=identity.address,
            roles=list(identity.roles),
            public_key=identity.public_key,
            membership_expires=expires,
        )


class PeerPage(BaseModel):
    """Participants by id; ``next`` is the cursor of the following page, if there is one."""

    peers: list[PeerView]
    next: str | None = None


def peers_router(directory: PeerDirectory, admit: Callable[[str], PeerIdentity]) -> APIRouter:
    """Return the routes under ``/management/peers``; ``admit`` verifies and remembers who is at an address."""
    router = APIRouter(prefix="/management/peers", tags=["peers"])

    @router.get("")
    def peers(_operator: Reader, after: str = "", limit: Annotated[int, Query(ge=1, le=500)] = 100) -> PeerPage:
        """List the participants we know, by id."""
        found = [one for one in directory.all() if one.identity.participant_id > after]
        page = [PeerView.of(one.identity, one.expires) for one in found[:limit]]
        return PeerPage(peers=page, next=page[-1].participant_id if len(found) > limit else None)

    @router.post("", status_code=201)
    def add(_operator: Writer, wanted: PeerRequest) -> PeerView:
        """Get to know the participant at an address: fetch its membership, verify it, remember it."""
        try:
            return PeerView.of(admit(wanted.address))
        except PeerUnreachableError as error:
            raise ProblemError(502, error.code, "The participant could not be asked", str(error)) from error
        except UnauthorizedError as error:
            detail = f"{error}; that participant must obtain a membership from this data space's authority"
            raise ProblemError(502, error.code, "The participant's membership does not hold", detail) from error

    return router
