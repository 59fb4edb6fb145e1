"""One turn of an operator's route: the scope, the body, the endpoint and the view, in one thread.

FastAPI solves the dependencies of a route anew per request and gives the endpoint a thread through three layers; that
costs as much as the beginning of a negotiation itself.
"""

import inspect
import json
from collections.abc import Callable
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter

from connector.http.access import Scoped
from connector.http.short_way import JSON, refused, says_json
from connector.identity.errors import ForbiddenError, OverloadedError, UnauthorizedError

# ``ValueError``: no JSON, or not of the body's form.
_NOT_FOR_US = (ValueError, RecursionError, UnauthorizedError, ForbiddenError, OverloadedError)


class OperatorRoute(APIRoute):
    """A route whose endpoint takes an operator and one body, has no parameters in its path and returns a view."""

    def server(self) -> Callable[[Request, bytes], Response | None]:
        """Return what answers a request with its whole body, in a thread.

        It returns ``None`` for one that is not as it should be: the app knows how to say what is wrong with it.
        """
        endpoint: Callable[..., object] = self.endpoint
        signature = inspect.signature(endpoint)
        scopes, bodies = {}, {}
        for name, parameter in signature.parameters.items():
            if isinstance(parameter.annotation, type) and issubclass(parameter.annotation, BaseModel):
                bodies[name] = parameter.annotation
            else:
                scopes[name] = _scope(parameter.annotation)
        ((operator, scope),) = scopes.items()
        ((body_name, form),) = bodies.items()
        write: Callable[..., bytes] = TypeAdapter(signature.return_annotation).dump_json
        status = self.status_code or 200

        def serve(request: Request, body: bytes) -> Response | None:
            if not says_json(request):
                return None
            try:
                given = {operator: scope.check(request), body_name: form.model_validate(json.loads(body))}
            except _NOT_FOR_US:
                return None
            try:
                view = endpoint(**given)
            except Exception as error:  # noqa: BLE001 - raised again where the app has no answer to it
                return refused(request, error)
            return Response(write(view, by_alias=True), status, media_type=JSON)

        return serve

    def refused(self, request: Request, error: Exception) -> Response:
        """Return the app's own answer to an error; raises it where there is none, for the outermost layer to answer."""
        return refused(request, error)


def _scope(annotation: Any) -> Scoped:
    (depends,) = annotation.__metadata__
    found = depends.dependency
    if not isinstance(found, Scoped):
        raise TypeError("an operator's route takes a scope and a body")
    return found
