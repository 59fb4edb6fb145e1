"""One request of a person at the pages: their language, their session, and the answers we can give."""

import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlencode

import structlog
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from connector.identity.errors import UnauthorizedError
from connector.identity.sessions import Session, Sessions, form_token
from connector.ui.errors import PageError, SignInNeededError, page_error
from connector.ui.rendering import html
from connector.ui.requests import set_cookie
from connector.ui.words import LANGUAGES, Words, reader_language, words

_REMEMBERED = 365 * 24 * 3600
_SEE_OTHER = 303


@dataclasses.dataclass(frozen=True, kw_only=True)
class Area:
    """A part of the site with its own sessions: ``/my`` or ``/operate``.

    Attributes:
        path: where it lies.
        participant: whose pages these are, by name.
        sessions: who is signed in.
        secure: whether browsers reach us by https only.
        live: whether its pages run our scripts.
        translated: whether its pages speak the reader's language; operators' pages are in English.
    """

    path: str
    participant: str
    sessions: Sessions
    secure: bool
    live: bool = False
    translated: bool = True

    @property
    def language_cookie(self) -> str:
        """The cookie that remembers a chosen language."""
        return f"{self.sessions.cookie}-language"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Visit:
    """One request and what is known about who sent it."""

    area: Area
    request: Request
    session: Session | None
    words: Words
    chosen: str | None

    @classmethod
    def of(cls, area: Area, request: Request) -> "Visit":
        """Read a request's cookies and wishes."""
        asked = request.query_params.get("lang")
        chosen = asked if asked in LANGUAGES else None
        known = chosen or request.cookies.get(area.language_cookie)
        language = reader_language(known, request.headers.get("accept-language")) if area.translated else "en"
        return cls(
            area=area,
            request=request,
            session=area.sessions.find(request.cookies.get(area.sessions.cookie)),
            words=words(language),
            chosen=chosen,
        )

    @property
    def signed_in(self) -> Session:
        """The session.

        Raises:
            SignInNeededError: nobody is signed in.
        """
        if self.session is None:
            raise SignInNeededError
        return self.session

    def page(self, template: str, *, status: int = 200, **values: Any) -> Response:
        """Return a page of this area."""
        shared: dict[str, Any] = {
            "area": self.area,
            "t": self.words,
            "session": self.session,
            "token": form_token(self.session) if self.session else "",
            "here": self._here,
            "name": "",
            "tab": "",
            "learner": None,
            "learners": (),
        }
        answer = html(template, {**shared, **values}, status=status, live=self.area.live)
        return self.kept(answer)

    def go(self, path: str, **query: object) -> Response:
        """Send the browser to another page with a GET."""
        given = {name: value for name, value in query.items() if value not in (None, "")}
        url = path + (f"?{urlencode(given)}" if given else "")
        return self.kept(RedirectResponse(url, _SEE_OTHER, {"Cache-Control": "no-store"}))

    def kept(self, response: Response) -> Response:
        """Renew the session's cookie and remember a language that was chosen; return the response."""
        area = self.area
        if self.session is not None:
            text = area.sessions.text(self.session)
            set_cookie(response, area.sessions.cookie, text, path=area.path, secure=area.secure, seconds=None)
        if self.chosen is not None:
            name = area.language_cookie
            set_cookie(response, name, self.chosen, path=area.path, secure=area.secure, seconds=_REMEMBERED)
        return response

    def _here(self, language: str) -> str:
        """Return this page's address in another language."""
        query = {name: value for name, value in self.request.query_params.items() if name in {"for", "said"}}
        # What a form was sent to can be no page to come back to.
        path = self.request.url.path if self.request.method == "GET" else self.area.path
        return f"{path}?{urlencode({**query, 'lang': language})}"


def page_route(area: Area) -> type[APIRoute]:
    """Return the kind of route whose errors are pages of ``area``."""

    class PageRoute(APIRoute):
        """A route for people: whatever goes wrong, they get a page in their language."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            """Wrap the route."""
            inner = super().get_route_handler()

            async def handle(request: Request) -> Response:
                try:
                    return await inner(request)
                except SignInNeededError:
                    return Visit.of(area, request).go(area.path)
                except UnauthorizedError:
                    found = PageError(403, "sign_in_provider")
                except (RequestValidationError, HTTPException):
                    found = PageError(400, "refused")
                except Exception as error:  # noqa: BLE001 - people get a page, whatever happened
                    found = page_error(error) or _ours(error, request)
                return _error_page(Visit.of(area, request), found)

            return handle

    return PageRoute


def _ours(error: Exception, request: Request) -> PageError:
    # Its message may quote what somebody sent; type and place are enough to find it.
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_globals.get('__name__')}:{place.tb_lineno}" if place else "unknown"
    log = structlog.get_logger("orchard")
    log.error("unexpected-error", error=type(error).__name__, at=where, path=request.url.path)
    return PageError(500, "ours")


def _error_page(visit: Visit, error: PageError) -> Response:
    changed = visit.request.method == "POST" and error.words != "ours"
    return visit.page("error.html", status=error.status, message=visit.words(f"error.{error.words}"), changed=changed)
