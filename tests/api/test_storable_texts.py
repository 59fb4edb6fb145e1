"""Characters that a database cannot hold are refused on every route, wherever they stand and however they arrive."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from connector.http.texts import StorableTexts
from connector.openapi import split
from connector.wiring import wire_api
from tests.support.participants import Participant, Space

JSON = [(b"content-type", b"application/json; charset=utf-8")]
NUL, HALF = "a\x00b", "a\ud800b"


@pytest.fixture(scope="module")
def pair(
    postgresql_server: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Participant, Participant]]:
    """Give two participants on PostgreSQL, which takes neither."""
    space = Space(tmp_path_factory.mktemp("texts"), wire_api)
    yield tuple(space.add(name, port, database_url=postgresql_server()) for name, port in (("n", 18141), ("s", 18142)))
    space.close()


def filled(schema: dict[str, Any], document: dict[str, Any], text: str, depth: int = 0) -> Any:
    """Return a value of a schema in which every text is ``text``."""
    if "$ref" in schema:
        return filled(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document, text, depth)
    for joined in ("anyOf", "oneOf", "allOf"):
        if joined in schema:
            first = next((one for one in schema[joined] if one.get("type") != "null"), {})
            return filled(first, document, text, depth)
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    kind = schema.get("type")
    if kind == "object" and depth < 6:
        named = {key: filled(one, document, text, depth + 1) for key, one in schema.get("properties", {}).items()}
        if "@id" in schema.get("required", ()):
            named |= {"@id": text, "permission": [{"action": "use"}]}
        return named or {"x": text}
    if kind == "array":
        return [filled(schema.get("items", {}), document, text, depth + 1)]
    return {"integer": 1, "number": 1.5, "boolean": True}.get(str(kind), text)


def requests(document: dict[str, Any], text: str, quoted: str) -> Iterator[tuple[str, str, bytes | None]]:
    """Yield a request per route with ``text`` in its path, its questions and its body; then in its body alone."""
    for path, item in document["paths"].items():
        for method, route in item.items():
            asked = [one for one in route.get("parameters", ()) if one["in"] == "query"]
            texts = [one["name"] for one in asked if "integer" not in json.dumps(one["schema"])]
            query = "?" + "&".join(f"{name}={quoted}" for name in texts) if texts else ""
            content = route.get("requestBody", {}).get("content", {}).get("application/json")
            body = json.dumps(filled(content["schema"], document, text)).encode() if content else None
            if path.endswith("/stream"):
                continue
            if "{" in path or query:
                yield method.upper(), re.sub(r"\{[^}]*\}", quoted, path) + query, body
            if body is not None:
                yield method.upper(), re.sub(r"\{[^}]*\}", "urn:x", path), body


@pytest.mark.parametrize("name", ["dsp", "management", "consent", "learning"])
def test_no_route_breaks_on_a_text_that_cannot_be_stored(pair: tuple[Participant, Participant], name: str) -> None:
    """NUL and half a surrogate pair, in path, question and body of every published route: refused, never a 5xx."""
    target, sender = pair
    document = json.loads(split(target.app)[name])
    tried = 0
    for text, quoted in ((NUL, "a%00b"), (HALF, "a%ED%A0%80b")):
        for method, path, body in requests(document, text, quoted):
            peers = path.startswith(("/dsp", "/learning"))
            given = {"authorization": sender.foundation.issuer.authorization(target.id)} if peers else target.operator
            answer = target.client.request(
                method, path, content=body, headers={**given, "content-type": "application/json"}
            )
            assert answer.status_code < 500, (method, path, answer.text[:200])
            refused = answer.status_code >= 400
            assert refused or text == HALF, (method, path, answer.status_code)
            tried += 1
    assert tried > 4


@pytest.mark.parametrize("size", [1, 2, 5, 7, 64, 10_000])
@pytest.mark.parametrize(
    ("body", "good"),
    [
        (json.dumps(["😀" * 30, "é", "a\\b"]).encode(), True),
        (json.dumps("\\u0000 as text, and a backslash \\").encode(), True),
        ("😀 as it is".encode(), True),
        (json.dumps("x" * 99 + NUL).encode(), False),
        (json.dumps("x" * 60 + HALF).encode(), False),
        (json.dumps("x" * 60 + "\udc00").encode(), False),
        (b'"' + b"x" * 70 + b"\xed\xa0\x80" + b'"', False),
        ('"sixteen bits"'.encode("utf-16"), False),
    ],
)
def test_it_is_found_however_the_body_is_cut(size: int, body: bytes, *, good: bool) -> None:
    """The pieces in which a body arrives make no difference: what is whole passes, what is not is refused."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    messages = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
        for number, piece in enumerate(pieces, start=1)
    ]
    heard = bytearray()

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        for _ in messages:
            heard.extend((await receive())["body"])

    async def receive() -> Any:
        return messages[len(heard) // size]

    scope = {"type": "http", "path": "/management/x", "query_string": b"", "headers": JSON}
    run = StorableTexts(app)(scope, receive, app)
    if good:
        asyncio.run(run)
        assert bytes(heard) == body
    else:
        with pytest.raises(HTTPException):
            asyncio.run(run)
