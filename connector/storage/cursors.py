"""Opaque cursors: a direction and a place in an order. Nothing is counted, so the last page costs what the first does."""

import base64
import dataclasses
import json

from contracts.errors import CursorError

_LARGEST = 1 << 62


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cursor:
    """The page right after a place, or right before it."""

    place: tuple[int | str, ...]
    backwards: bool = False

    def text(self) -> str:
        """Return the cursor as it is handed out."""
        said = ["<" if self.backwards else ">", *self.place]
        return base64.urlsafe_b64encode(json.dumps(said).encode()).rstrip(b"=").decode()


def read_cursor(text: str, *kinds: type) -> Cursor:
    """Return a cursor that was handed out; ``kinds`` are the types (int, str) of the parts of its place.

    Raises:
        CursorError: it was not handed out here.
    """
    try:
        said = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, list) or len(said) != len(kinds) + 1 or said[0] not in ("<", ">"):
        raise CursorError("cursor: this cursor was not handed out here")
    if not all(_fits(part, kind) for part, kind in zip(said[1:], kinds, strict=True)):
        raise CursorError("cursor: this cursor was not handed out here")
    return Cursor(place=tuple(said[1:]), backwards=said[0] == "<")


def _fits(part: object, kind: type) -> bool:
    if isinstance(part, str):
        return kind is str and "\0" not in part and part.isprintable()
    return kind is int and isinstance(part, int) and not isinstance(part, bool) and abs(part) < _LARGEST
