"""From a template to a response that a browser may show, and nothing else: strict policy, no cache, no other site."""

import functools
import hashlib
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fastapi.responses import HTMLResponse, Response

from connector.ui.words import LANGUAGES, language_name

if TYPE_CHECKING:
    from jinja2 import Environment

# Learners' pages run no script at all; operators' pages run the vendored ones and follow their own event stream.
_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_LIVE = "; script-src 'self'; connect-src 'self'"
HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    }
)
STATIC = MappingProxyType(
    {
        "pages.css": "text/css; charset=utf-8",
        "mark.svg": "image/svg+xml",
        "htmx.min.js": "text/javascript; charset=utf-8",
        "hx-sse.min.js": "text/javascript; charset=utf-8",
        "htmx.LICENSE.txt": "text/plain; charset=utf-8",
    }
)
_YEAR = "public, max-age=31536000, immutable"


@functools.cache
def static_file(name: str) -> bytes:
    """Return one of the vendored or own files of :data:`STATIC`."""
    return resources.files("connector.ui").joinpath("static", name).read_bytes()


@functools.cache
def static_url(name: str) -> str:
    """Return the address of a static file; it changes with the file, so that browsers may keep it."""
    return f"/ui/{hashlib.sha256(static_file(name)).hexdigest()[:12]}/{name}"


def static_response(name: str) -> Response:
    """Return a static file."""
    headers = {"Cache-Control": _YEAR, "X-Content-Type-Options": "nosniff"}
    return Response(static_file(name), headers=headers, media_type=STATIC[name])


def policy(*, live: bool) -> str:
    """Return the content security policy of a page; ``live`` pages run our scripts."""
    return _POLICY + _LIVE if live else _POLICY


@functools.cache
def environment() -> "Environment":
    """Return the templates; undefined names are errors."""
    # Loaded with the first page: a participant without visitors need not pay for it.
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415

    made = Environment(
        loader=PackageLoader("connector.ui"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(static=static_url, languages=LANGUAGES, language_name=language_name)
    return made


def render(template: str, values: Mapping[str, Any]) -> str:
    """Return the text of a template."""
    return environment().get_template(template).render(values)


def html(template: str, values: Mapping[str, Any], *, status: int = 200, live: bool = False) -> HTMLResponse:
    """Return a page."""
    headers = {**HEADERS, "Content-Security-Policy": policy(live=live)}
    return HTMLResponse(render(template, values), status, headers)
