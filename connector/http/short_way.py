"""What the short ways past the framework have in common: the app's own answers to errors."""

from fastapi import Request, Response


def refused(request: Request, error: Exception) -> Response:
    """Return the app's own answer to an error; raises it where there is none, for the outermost layer to answer."""
    handlers = request.app.exception_handlers
    for kind in type(error).__mro__:
        if kind in handlers and kind is not Exception:
            answer: Response = handlers[kind](request, error)
            return answer
    raise error
