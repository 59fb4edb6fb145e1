"""What anyone may know about this participant without asking: its DID document."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from connector.peers.directory import DID_DOCUMENT


def wellknown_router(document: Mapping[str, Any]) -> APIRouter:
    """Return the route that serves the DID document."""
    router = APIRouter(tags=["identity"])

    @router.get(DID_DOCUMENT)
    def did() -> JSONResponse:
        """Return this participant's DID document with its membership credential."""
        return JSONResponse(dict(document), media_type="application/did+json")

    return router
