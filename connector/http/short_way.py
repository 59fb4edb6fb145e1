"""What the short ways past the framework have in common: what is JSON, and the app's own answers to errors."""

from typing import Final

from fastapi import Request, Response

JSON: Final = "application/json"


def says_json(request: Request) -> bool:
    """Say whether a request calls its body JSON, in the one form that needs no second look."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == JSON


def refused(request: Request, error: Exception) -> Response:
    """Return the app's own answer to an error; raises it where there is none, for the outermost layer to answer."""
    handlers = request.app.exception_handlers
    for kind in type(error).__mro__:
        if kind in handlers and kind is not Exception:
            answer: Response = handlers[kind](request, error)
            return answer
    raise error
