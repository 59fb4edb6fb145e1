"""Refuses texts that a database cannot hold, before anything reads them.

PostgreSQL stores no NUL character, and a lone surrogate has no UTF-8 form; whoever sends one gets an answer instead of a
fault of ours, and the same answer on every database. Messages of the Dataspace Protocol are checked by their codec, which answers in the protocol's own way.
"""

import re
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from connector.http.problems import problem_body

_DETAIL = "A text holds a NUL character or half of a surrogate pair; neither can be stored."
_HIGH, _LOW = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
# As JSON and forms write it. An escaped backslash before it makes it six ordinary characters.
_WRITTEN: Mapping[bytes, tuple[tuple[bytes, ...], re.Pattern[bytes]]] = {
    b"application/json": (
        # One of these is in every match; hardly any text has one, and looking for the pattern takes ten times as long.
        (b"\x00", b"\xed", b"\\u"),
        re.compile(
            # Raw: no text in UTF-8 has these bytes. Written as escapes: a NUL, a first half alone, a second half alone.
            rb"\x00|\xed[\xa0-\xbf]|(?<!\\)(?:\\\\)*(?:\\u0000|%(high)b(?!%(low)b)|(?<!%(high)b)%(low)b)"
            % {b"high": _HIGH, b"low": _LOW}
        ),
    ),
    b"application/x-www-form-urlencoded": ((b"%00",), re.compile(rb"%00")),
}
# So much of a piece is looked at again with the next one: the text may lie across both.
_OVERLAP = 64
_ESCAPE = 6
_ELSEWHERE = "/dsp/"


class StorableTexts:
    """ASGI middleware: 400 for such a character in a path, a question or a body of JSON or a form."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap ``app``."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, looking at its texts."""
        if scope["type"] != "http" or scope["path"].startswith(_ELSEWHERE):
            await self._app(scope, receive, send)
            return
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:
            body = problem_body(400, "text-not-storable", "The request is not valid", _DETAIL)
            refusal = JSONResponse(body, 400, media_type="application/problem+json")
            await refusal(scope, receive, send)
            return
        written = _WRITTEN.get(_content_type(scope))
        await self._app(scope, receive if written is None else _looking(receive, *written), send)


def _looking(receive: Receive, signs: tuple[bytes, ...], pattern: re.Pattern[bytes]) -> Receive:
    before = b""

    async def looked_at() -> Message:
        nonlocal before
        message = await receive()
        seen = before + message.get("body", b"")
        # What the end of a piece cuts is judged with the next one, and only once.
        judged, sure = len(before) - _ESCAPE, len(seen) - (_ESCAPE if message.get("more_body") else 0)
        if any(sign in seen for sign in signs) and any(
            judged < found.end() <= sure for found in pattern.finditer(seen)
        ):
            raise HTTPException(400, _DETAIL)
        before = seen[-_OVERLAP:]
        return message

    return looked_at


def _content_type(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"content-type":
            return bytes(value).partition(b";")[0].strip().lower()
    # Without a type a body is not read as JSON.
    return b""
