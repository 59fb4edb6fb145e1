"""Coming and going below ``/my``: the welcome, signing in at the learners' provider, checking a receipt, signing out."""

import json
from datetime import datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request, Response

from connector.identity.learners import learner_identity
from connector.identity.oidc import OidcClient
from connector.identity.sessions import Seal
from connector.ui.errors import PageError
from connector.ui.people import session_claims
from connector.ui.requests import Form, drop_cookie, require_own_form, require_same_site, set_cookie
from connector.ui.visits import Area, Visit, page_route
from policies.receipts import verify_receipt

_BEGUN_LASTS = timedelta(minutes=10)
_MAX_ANSWER = 8192


def receipt_payload(text: str, public_key: str) -> dict[str, Any] | None:
    """Return what a pasted receipt says; None when it does not hold, or is none."""
    try:
        document = json.loads(text)
        return verify_receipt(document, public_key) if isinstance(document, dict) else None
    except (ValueError, RecursionError):
        return None


def my_sign_in_router(  # noqa: C901 - a list of routes
    area: Area, seal: Seal, provider: OidcClient | None, public_key: str
) -> APIRouter:
    """Return the routes; without a provider the welcome says that signing in is not set up.

    ``public_key`` is this participant's: receipts are checked against it.
    """
    router = APIRouter(include_in_schema=False, route_class=page_route(area))
    cookie = f"{area.sessions.cookie}-begun"

    @router.get("/my")
    def welcome(request: Request) -> Response:
        """Say what these pages are; people who are signed in go on to their overview."""
        visit = Visit.of(area, request)
        if visit.session is not None:
            return visit.go("/my/overview")
        return visit.page("my/welcome.html", can_sign_in=provider is not None)

    @router.get("/my/sign-in")
    def sign_in(request: Request) -> Response:
        """Send the browser to the sign-in service."""
        if provider is None:
            raise PageError(404, "not_found")
        visit = Visit.of(area, request)
        begun = provider.begin(visit.words.language)
        response = visit.go(begun.url)
        text = seal.seal(cookie, begun.kept(), _BEGUN_LASTS)
        set_cookie(response, cookie, text, path="/my", secure=area.secure, seconds=int(_BEGUN_LASTS.total_seconds()))
        return response

    @router.get("/my/signed-in")
    def signed_in(request: Request) -> Response:
        """Take the sign-in service's answer and begin a session."""
        if provider is None or len(request.url.query) > _MAX_ANSWER:
            raise PageError(404, "not_found")
        visit = Visit.of(area, request)
        kept = seal.open(cookie, request.cookies.get(cookie))
        claims = session_claims(provider.finish(kept, dict(request.query_params)).claims)
        learner_identity(claims)
        session = area.sessions.begin(claims)
        response = visit.go("/my/overview")
        set_cookie(
            response, area.sessions.cookie, area.sessions.text(session), path="/my", secure=area.secure, seconds=None
        )
        drop_cookie(response, cookie, path="/my", secure=area.secure)
        return response

    @router.post("/my/sign-out")
    def sign_out(request: Request, form: Form) -> Response:
        """End the session."""
        visit = Visit.of(area, request)
        if visit.session is not None:
            require_own_form(request, visit.session, form)
            area.sessions.end(visit.session)
        response = Visit.of(area, request).go("/my/signed-out")
        drop_cookie(response, area.sessions.cookie, path="/my", secure=area.secure)
        return response

    @router.get("/my/check")
    def check(request: Request) -> Response:
        """Ask for a receipt to check; nobody needs to sign in for it."""
        return Visit.of(area, request).page("my/check.html", checked=None)

    @router.post("/my/check")
    def checked(request: Request, form: Form) -> Response:
        """Say whether a receipt was issued here and is unchanged."""
        require_same_site(request)
        visit = Visit.of(area, request)
        payload = receipt_payload(form.get("receipt", ""), public_key)
        if payload is None:
            raise PageError(422, "forged")
        since = datetime.fromisoformat(str(payload["issued_at"]))
        return visit.page("my/check.html", checked={"state": payload["state"], "since": since})

    @router.get("/my/signed-out")
    def signed_out(request: Request) -> Response:
        """Say goodbye."""
        return Visit.of(area, request).page("my/goodbye.html")

    return router
