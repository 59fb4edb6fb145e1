"""Errors as RFC 9457 problem details; the one place where an error of the HTTP layer becomes a response.

A problem never repeats what was sent: the offending value may be personal data. Routes of the Dataspace Protocol answer
with that protocol's own typed errors and do not come here, except for what stops a request before its route.
"""

import http
import re
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from connector.identity.errors import ForbiddenError, OverloadedError, UnauthorizedError

PROBLEM_TYPE = "https://w3id.org/orchard/problems/"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_@:.\-]{1,64}")
# Messages of these pydantic errors carry text from the input or from a validator that may have quoted it.
_QUOTING = frozenset({"value_error", "assertion_error", "union_tag_invalid", "json_invalid"})


class ProblemError(Exception):
    """A request that cannot be served, with what an HTTP client should be told."""

    def __init__(
        self, status: int, code: str, title: str, detail: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        """Describe the problem.

        Args:
            status: HTTP status code.
            code: stable short name, lower case with hyphens; the end of the problem's ``type`` URI.
            title: what kind of problem this is, the same for every occurrence.
            detail: what is wrong here, whose fault it is and what to do; no data of the request.
            headers: further response headers.
        """
        super().__init__(detail)
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.headers = dict(headers or {})


def problem_body(status: int, code: str, title: str, detail: str) -> dict[str, Any]:
    """Return the JSON body of a problem (RFC 9457 section 3.1), with our ``code`` beside the standard members."""
    return {"type": PROBLEM_TYPE + code, "title": title, "status": status, "detail": detail, "code": code}


def problem_response(problem: ProblemError, **members: object) -> JSONResponse:
    """Return the response for a problem; ``members`` are extension members of the body."""
    body = problem_body(problem.status, problem.code, problem.title, problem.detail) | members
    return JSONResponse(body, problem.status, problem.headers, media_type="application/problem+json")


def install_problem_handlers(app: FastAPI) -> None:
    """Make every error of ``app`` that no route has answered a problem response."""
    app.add_exception_handler(ProblemError, _problem)
    app.add_exception_handler(UnauthorizedError, _unauthorized)
    app.add_exception_handler(ForbiddenError, _forbidden)
    app.add_exception_handler(OverloadedError, _overloaded)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)


def _problem(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ProblemError)  # noqa: S101 - registered for this type only
    return problem_response(error)


def _unauthorized(_request: Request, error: Exception) -> JSONResponse:
    code = getattr(error, "code", "unauthorized")
    headers = {"WWW-Authenticate": "Bearer"}
    return problem_response(ProblemError(401, code, "The caller is not authenticated", str(error), headers=headers))


def _forbidden(_request: Request, error: Exception) -> JSONResponse:
    code = getattr(error, "code", "forbidden")
    return problem_response(ProblemError(403, code, "The caller may not do this", str(error)))


def _overloaded(_request: Request, error: Exception) -> JSONResponse:
    code = getattr(error, "code", "overloaded")
    headers = {"Retry-After": "5"}
    return problem_response(ProblemError(503, code, "This participant is overloaded", str(error), headers=headers))


def _invalid(_request: Request, error: Exception) -> JSONResponse:
    found = error.errors() if isinstance(error, RequestValidationError) else []
    detail = "The request does not have the form this route expects; see errors."
    problem = ProblemError(422, "invalid-request", "The request is not valid", detail)
    return problem_response(problem, errors=[_violation(one) for one in found[:50]])


def _violation(error: Mapping[str, Any]) -> dict[str, str]:
    kind = str(error.get("type", "invalid"))
    message = "is not a valid value" if kind in _QUOTING else str(error.get("msg", "is not valid"))
    return {"where": _where(error.get("loc", ())), "problem": message, "kind": kind}


def _where(location: Sequence[object]) -> str:
    parts = (str(part) for part in location)
    return ".".join(part if _PLAIN_NAME.fullmatch(part) else "?" for part in parts)


def _http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type only
    title = http.HTTPStatus(error.status_code).phrase
    code = title.lower().replace(" ", "-").replace("'", "")
    return problem_response(ProblemError(error.status_code, code, title, title + ".", headers=error.headers))


def _gone(_request: Request, _error: Exception) -> Response:
    # A caller that hung up before it had sent its whole body is nobody's fault here, and hears no answer.
    return Response(status_code=400)


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    # The message of an unexpected error may quote data; its type and place are enough to find it.
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_globals.get('__name__')}:{place.tb_lineno}" if place else "unknown"
    structlog.get_logger("orchard").error(
        "unexpected-error", error=type(error).__name__, at=where, path=request.url.path
    )
    detail = "This is a fault of this participant, not of the request; its operator finds the cause in the log."
    return problem_response(ProblemError(500, "internal-error", "Unexpected error", detail))
