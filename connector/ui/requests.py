"""What a browser sends: forms that are ours, cookies, and where an answer goes."""

from typing import Annotated, Any
from urllib.parse import parse_qsl, urlsplit

from fastapi import Depends, Request
from fastapi.responses import Response

from connector.identity.sessions import Session, is_form_token
from connector.ui.errors import PageError

_FORM = "application/x-www-form-urlencoded"
_MAX_FORM = 32 * 1024
_MAX_FIELDS = 50


async def _form(request: Request) -> dict[str, str]:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise PageError(415, "refused")
    body = await request.body()
    if len(body) > _MAX_FORM:
        raise PageError(413, "refused")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS))
    except ValueError as error:
        raise PageError(400, "refused") from error


Form = Annotated[dict[str, str], Depends(_form)]


def require_same_site(request: Request) -> None:
    """Refuse a form that another site sent: by what browsers say of themselves (Fetch Metadata, else Origin).

    Raises:
        PageError: it comes from elsewhere.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        if site not in {"same-origin", "none"}:
            raise PageError(403, "form")
        return
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host", ""):
        raise PageError(403, "form")


def require_own_form(request: Request, session: Session, form: dict[str, str]) -> None:
    """Refuse a form that this session's pages did not hold.

    Raises:
        PageError: another site's, or another session's.
    """
    require_same_site(request)
    if not is_form_token(session, form.get("token")):
        raise PageError(403, "form")


def set_cookie(response: Response, name: str, value: str, *, path: str, secure: bool, seconds: int | None) -> None:
    """Set a cookie that scripts cannot read and that other sites' forms do not bring along.

    Lax, not strict: the sign-in service sends the browser back to us from its own site.
    """
    flags: dict[str, Any] = {"path": path, "secure": secure, "httponly": True, "samesite": "lax"}
    response.set_cookie(name, value, max_age=seconds, **flags)


def drop_cookie(response: Response, name: str, *, path: str, secure: bool) -> None:
    """Take a cookie away."""
    response.delete_cookie(name, path=path, secure=secure, httponly=True, samesite="lax")
