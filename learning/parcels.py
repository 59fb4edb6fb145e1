"""Many uploads in one body: a length, canonical JSON about each of them, then their vectors one after the other.

``application/vnd.orchard.uploads`` = four bytes (big-endian: the length of the JSON) | canonical JSON ``{"entries":
[...]}`` | the vectors of those entries that say ``carried``, in their order, all of one length. Providers that host many
contributors hand over, copy, keep and seal again in this form.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from learning.errors import RefusedError
from policies.canonical import canonical_json

MEDIA_TYPE = "application/vnd.orchard.uploads"
_PREFIX = 4
_MOST_ENTRIES = 100_000
Bytes = bytes | bytearray | memoryview


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One upload, or part of one.

    Attributes:
        document: the signed upload header.
        box: the box for the receiving seat (base64); None where only the vector comes.
        vector: the masked vector; None where the receiver does not carry it.
        copies: column -> box, for the seats that the receiver copies header, box and vector to.
        reseal: the signed statement that the box replaces the header's; None for the header's own.
    """

    document: Mapping[str, Any]
    box: str | None
    vector: Bytes | None = dataclasses.field(default=None, repr=False)
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    reseal: Mapping[str, Any] | None = None

    @property
    def contributor(self) -> str:
        """The contributor's id, as the header says it."""
        return str(_payload(self.document).get("contributor"))

    @property
    def group(self) -> str:
        """The leaf group that the header is for."""
        context = _payload(self.document).get("context")
        return str(context.get("group")) if isinstance(context, Mapping) else ""

    def to_json(self) -> dict[str, Any]:
        """Return the entry without its vector."""
        value: dict[str, Any] = {"document": self.document, "box": self.box, "carried": self.vector is not None}
        if self.copies:
            value["copies"] = dict(self.copies)
        return value if self.reseal is None else value | {"reseal": self.reseal}


def encode(entries: Sequence[Entry]) -> bytes:
    """Return the body of some entries."""
    vectors = [entry.vector for entry in entries if entry.vector is not None]
    return join([entry.to_json() for entry in entries], vectors)


def decode(data: Bytes, vector_bytes: int) -> list[Entry]:
    """Read what :func:`encode` wrote.

    Args:
        data: the body.
        vector_bytes: the length of each vector.

    Raises:
        RefusedError: truncated, over-long, or not of the stated form.
    """
    values, rest = split(data)
    cut = _cutter(rest, vector_bytes, sum(1 for value in values if value.get("carried") is True))
    return [entry_of(value, cut) for value in values]


def entry_of(value: Mapping[str, Any], cut: Callable[[], memoryview]) -> Entry:
    """Return one entry of a body's JSON; ``cut`` gives the next vector.

    Raises:
        RefusedError: a member is missing, extra or of another type.
    """
    document, box, carried = value.get("document"), value.get("box"), value.get("carried")
    copies, reseal = value.get("copies", {}), value.get("reseal")
    right = (
        isinstance(document, Mapping)
        and (box is None or isinstance(box, str))
        and isinstance(carried, bool)
        and isinstance(copies, Mapping)
        and all(isinstance(one, str) for pair in copies.items() for one in pair)
        and (reseal is None or isinstance(reseal, Mapping))
        and set(value) <= {"document", "box", "carried", "copies", "reseal"}
    )
    if not right or document is None:
        raise RefusedError(
            "bad-upload", "an upload has a header document, a box, and says whether its vector comes too"
        )
    return Entry(document=document, box=box, vector=cut() if carried else None, copies=copies, reseal=reseal)


def join(values: Sequence[Mapping[str, Any]], vectors: Iterable[Bytes]) -> bytes:
    """Return a body from JSON values and vectors."""
    head = canonical_json({"entries": list(values)})
    return b"".join((len(head).to_bytes(_PREFIX, "big"), head, *vectors))


def split(data: Bytes) -> tuple[list[Mapping[str, Any]], memoryview]:
    """Return a body's JSON values and what follows them.

    Raises:
        RefusedError: truncated, or not of the stated form.
    """
    view = memoryview(data)
    length = int.from_bytes(view[:_PREFIX], "big")
    if len(view) < _PREFIX + length:
        raise RefusedError("bad-upload", "the body ends before its entries do")
    try:
        value = json.loads(bytes(view[_PREFIX : _PREFIX + length]))
        entries = value["entries"]
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise RefusedError("bad-upload", "the body does not begin with its entries") from error
    if not isinstance(entries, list) or not 0 < len(entries) <= _MOST_ENTRIES:
        raise RefusedError("bad-upload", f"a body holds 1 to {_MOST_ENTRIES} entries")
    if not all(isinstance(entry, Mapping) for entry in entries):
        raise RefusedError("bad-upload", "an entry is an object")
    return entries, view[_PREFIX + length :]


def vectors_of(rest: memoryview, count: int) -> Iterator[memoryview]:
    """Yield ``count`` vectors of one length."""
    size = len(rest) // count if count else 0
    for start in range(0, size * count, size or 1):
        yield rest[start : start + size]


def _cutter(rest: memoryview, size: int, count: int) -> Callable[[], memoryview]:
    if len(rest) != size * count:
        raise RefusedError("bad-upload", f"{len(rest)} bytes follow the entries, {count} vectors take {size * count}")
    parts = iter([rest[start : start + size] for start in range(0, size * count, size)])
    return lambda: next(parts)


def _payload(document: Mapping[str, Any]) -> Mapping[str, Any]:
    payload = document.get("payload")
    return payload if isinstance(payload, Mapping) else {}
