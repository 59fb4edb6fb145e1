"""Callback addresses: they must lie under the authenticated peer's own address."""

from urllib.parse import urlsplit

from contracts.errors import CallbackRefusedError, MalformedMessageError
from contracts.processes import Caller


def require_callback(caller: Caller, callback: str) -> str:
    """Return the callback address without its trailing slash once it is the caller's own.

    Raises:
        CallbackRefusedError: it lies elsewhere, or no address of the caller is known.
        MalformedMessageError: it is not an absolute http(s) URL.
    """
    try:
        asked = urlsplit(callback)
        asked_port, host = asked.port, asked.hostname
    except ValueError:
        raise MalformedMessageError("callbackAddress must be an absolute URL") from None
    if asked.scheme not in ("http", "https") or not host or asked.username or asked.query or asked.fragment:
        raise MalformedMessageError("callbackAddress must be an absolute http(s) URL without user, query or fragment")
    own = urlsplit(caller.address or "")
    inside = (asked.path.rstrip("/") + "/").startswith(own.path.rstrip("/") + "/")
    same = (asked.scheme, host, _port(asked.scheme, asked_port)) == (
        own.scheme,
        own.hostname,
        _port(own.scheme, own.port),
    )
    if not (same and inside) or ".." in asked.path.split("/"):
        raise CallbackRefusedError("callbackAddress must lie under the address of your membership")
    return callback.rstrip("/")


def _port(scheme: str, port: int | None) -> int | None:
    return port if port is not None else {"http": 80, "https": 443}.get(scheme)
