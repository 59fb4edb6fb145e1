"""Coming and going below ``/operate``: the operator's token pasted once, or the operators' sign-in service."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Request, Response

from connector.identity.errors import UnauthorizedError
from connector.identity.oidc import OidcClient
from connector.identity.operators import OperatorIdentity, OperatorVerifier
from connector.identity.sessions import Seal
from connector.ui.errors import PageError
from connector.ui.requests import Form, drop_cookie, require_own_form, require_same_site, set_cookie
from connector.ui.visits import Area, Visit, page_route

_BEGUN_LASTS = timedelta(minutes=10)
_MAX_ANSWER = 8192


def operator_of(claims: Mapping[str, Any]) -> OperatorIdentity:
    """Return the operator of a session."""
    return OperatorIdentity(name=str(claims["name"]), scopes=frozenset(claims["scopes"]))


def operate_sign_in_router(  # noqa: C901 - a list of routes
    area: Area, seal: Seal, provider: OidcClient | None, operators: OperatorVerifier
) -> APIRouter:
    """Return the routes; ``provider`` is the operators' sign-in service, if one is configured."""
    router = APIRouter(include_in_schema=False, route_class=page_route(area))
    cookie = f"{area.sessions.cookie}-begun"

    def welcome_page(visit: Visit, *, refused: bool = False) -> Response:
        status = 403 if refused else 200
        return visit.page("operate/welcome.html", status=status, refused=refused, provider=provider is not None)

    def begin(visit: Visit, token: str) -> Response:
        operator = operators.verify(f"Bearer {token}")
        session = area.sessions.begin({"name": operator.name, "scopes": sorted(operator.scopes)})
        response = visit.go("/operate/board")
        text = area.sessions.text(session)
        set_cookie(response, area.sessions.cookie, text, path=area.path, secure=area.secure, seconds=None)
        drop_cookie(response, cookie, path=area.path, secure=area.secure)
        return response

    @router.get("/operate")
    def welcome(request: Request) -> Response:
        """Ask for the operator's token; operators who are signed in go on to the board."""
        visit = Visit.of(area, request)
        return welcome_page(visit) if visit.session is None else visit.go("/operate/board")

    @router.post("/operate/sign-in")
    def with_token(request: Request, form: Form) -> Response:
        """Take a pasted token and begin a session; the token itself is not kept."""
        require_same_site(request)
        visit = Visit.of(area, request)
        try:
            return begin(visit, form.get("token", "").strip())
        except UnauthorizedError:
            return welcome_page(visit, refused=True)

    @router.get("/operate/sign-in")
    def with_provider(request: Request) -> Response:
        """Send the browser to the operators' sign-in service."""
        if provider is None:
            raise PageError(404, "not_found")
        visit = Visit.of(area, request)
        begun = provider.begin()
        response = visit.go(begun.url)
        text, seconds = seal.seal(cookie, begun.kept(), _BEGUN_LASTS), int(_BEGUN_LASTS.total_seconds())
        set_cookie(response, cookie, text, path=area.path, secure=area.secure, seconds=seconds)
        return response

    @router.get("/operate/signed-in")
    def signed_in(request: Request) -> Response:
        """Take the sign-in service's answer: its access token says what the operator may do (RFC 9068)."""
        if provider is None or len(request.url.query) > _MAX_ANSWER:
            raise PageError(404, "not_found")
        kept = seal.open(cookie, request.cookies.get(cookie))
        found = provider.finish(kept, dict(request.query_params))
        return begin(Visit.of(area, request), found.access_token or "")

    @router.post("/operate/sign-out")
    def sign_out(request: Request, form: Form) -> Response:
        """End the session."""
        visit = Visit.of(area, request)
        if visit.session is not None:
            require_own_form(request, visit.session, form)
            area.sessions.end(visit.session)
        response = Visit.of(area, request).go(area.path)
        drop_cookie(response, area.sessions.cookie, path=area.path, secure=area.secure)
        return response

    return router
