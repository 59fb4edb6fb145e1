"""Many uploads in one body: what is written is read, and nothing else is."""

import json
from typing import Any

import pytest

from learning.errors import RefusedError
from learning.parcels import Entry, decode, encode, join, split, vectors_of

SIZE = 8


def entry(name: str, **changes: Any) -> Entry:
    """Return an upload of a contributor."""
    document = {"payload": {"contributor": name, "context": {"group": "0.1"}}, "signature": {"kid": "a"}}
    return Entry(**({"document": document, "box": "Ym94"} | changes))


def test_what_is_written_is_read() -> None:
    """Headers, boxes, copies, re-sealings and vectors come back, each vector with its own entry."""
    given = [
        entry("a#1", vector=b"A" * SIZE, copies={"2": "Ymx1ZQ=="}),
        entry("a#2"),
        entry("a#3", vector=b"C" * SIZE, box=None),
        entry("a#4", reseal={"payload": {"box": "ab"}}),
    ]
    found = decode(encode(given), SIZE)
    assert [(one.contributor, one.group, one.box, one.copies, one.reseal) for one in found] == [
        (one.contributor, "0.1", one.box, one.copies, one.reseal) for one in given
    ]
    assert [None if one.vector is None else bytes(one.vector) for one in found] == [
        b"A" * SIZE,
        None,
        b"C" * SIZE,
        None,
    ]
    values, rest = split(join([{"x": 1}, {"x": 2}], [b"12", b"34"]))
    assert [bytes(one) for one in vectors_of(rest, len(values))] == [b"12", b"34"]


def body(value: object, rest: bytes = b"") -> bytes:
    """Return a body with this JSON."""
    head = json.dumps(value).encode()
    return len(head).to_bytes(4, "big") + head + rest


WHOLE = encode([entry("a#1", vector=b"A" * SIZE), entry("a#2", vector=b"B" * SIZE)])
GOOD = {"document": {"payload": {}}, "box": None, "carried": False}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0",
        WHOLE[:40],
        WHOLE[:-1],
        WHOLE + b"x",
        b"\xff\xff\xff\xff" + WHOLE[4:],
        body([]),
        body({"entries": []}),
        body({"entries": {}}),
        body({"entries": [1]}),
        body({"entries": [{}]}),
        body({"entries": [GOOD | {"extra": 1}]}),
        body({"entries": [GOOD | {"document": None}]}),
        body({"entries": [GOOD | {"carried": 1}]}),
        body({"entries": [GOOD | {"box": 1}]}),
        body({"entries": [GOOD | {"copies": {"1": 2}}]}),
        body({"entries": [GOOD | {"reseal": []}]}),
        body({"entries": [GOOD | {"carried": True}]}),
        body({"entries": [GOOD]}, b"x"),
        (4).to_bytes(4, "big") + b"\xff\xfe\x00\x01",
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    """Truncated, over-long, of another form: a typed refusal before anything is stored."""
    with pytest.raises(RefusedError):
        decode(data, SIZE)
