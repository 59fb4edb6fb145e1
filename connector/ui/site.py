"""The pages of one participant put together: who may sign in where, and what each area is made of."""

import dataclasses
import hashlib

from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException

from connector.identity.files import read_secret
from connector.identity.membership import Clock
from connector.identity.oidc import Exchange, OidcClient
from connector.identity.operators import OperatorVerifier, read_key_set
from connector.identity.sessions import Seal, Sessions, session_key
from connector.settings import Settings, SignIn
from connector.ui.my import MyPages, my_router
from connector.ui.my_sign_in import my_sign_in_router
from connector.ui.my_views import NameOf
from connector.ui.operate import operate_routers
from connector.ui.operate_facts import Desk
from connector.ui.operate_sign_in import operate_sign_in_router
from connector.ui.rendering import STATIC, static_response
from connector.ui.visits import Area
from policies.service import ConsentService
from policies.signing import Signer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Site:
    """What the pages stand on.

    Attributes:
        settings: the participant's configuration.
        signer: the participant's key; the key that seals cookies follows from it.
        now: aware UTC time.
        exchange: posts to the token endpoint of a sign-in service, and to nothing else.
        consents: the consent service.
        name_of: a participant's name by its id.
        operators: who may operate.
        desk: what operators' pages read and do.
    """

    settings: Settings
    signer: Signer
    now: Clock
    exchange: Exchange
    consents: ConsentService
    name_of: NameOf
    operators: OperatorVerifier
    desk: Desk


def page_routers(site: Site) -> tuple[APIRouter, ...]:
    """Return the routes of ``/my``, ``/operate`` and ``/ui``.

    Raises:
        IdentityFileError: a key set or a client secret cannot be read.
    """
    settings = site.settings
    seal = Seal(session_key(site.signer), site.now)
    mine, ours = _area(site, seal, "my"), _area(site, seal, "operate")
    learners = _provider(site, settings.consent, "/my/signed-in")
    staff = _provider(site, settings.management, "/operate/signed-in")
    return (
        my_sign_in_router(mine, seal, learners, site.signer.public_key),
        my_router(MyPages(area=mine, consents=site.consents, name_of=site.name_of)),
        operate_sign_in_router(ours, seal, staff, site.operators),
        *operate_routers(ours, site.desk),
        _static_router(),
    )


def _area(site: Site, seal: Seal, name: str) -> Area:
    # Browsers do not keep cookies of two ports of one host apart: the name does.
    own = hashlib.sha256(site.settings.participant.id.encode()).hexdigest()[:8]
    secure = site.settings.server.public_url.startswith("https:")
    cookie = f"{'__Secure-' if secure else ''}orchard-{name}-{own}"
    return Area(
        path=f"/{name}",
        participant=site.settings.participant.name,
        sessions=Sessions(seal, cookie, site.now),
        secure=secure,
        live=name == "operate",
        translated=name == "my",
    )


def _provider(site: Site, given: SignIn, back: str) -> OidcClient | None:
    if (
        given.issuer is None
        or given.jwks is None
        or given.client_id is None
        or given.authorization_endpoint is None
        or given.token_endpoint is None
    ):
        return None
    return OidcClient(
        issuer=given.issuer,
        authorization_endpoint=given.authorization_endpoint,
        token_endpoint=given.token_endpoint,
        keys=read_key_set(given.jwks),
        client_id=given.client_id,
        secret=read_secret(given.client_secret_file) if given.client_secret_file is not None else None,
        redirect_url=site.settings.server.public_url + back,
        scope=given.sign_in_scope,
        exchange=site.exchange,
        now=site.now,
    )


def _static_router() -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/ui/{_version}/{name}")
    def static(_version: str, name: str) -> Response:
        """Give one of our own files; its address changes when it does."""
        if name not in STATIC:
            raise HTTPException(404)
        return static_response(name)

    return router
