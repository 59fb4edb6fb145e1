"""One way to turn a JSON value into bytes, so that a digest names exactly one document.

The form is RFC 8785 (JSON Canonicalization Scheme): sorted keys, no white space, numbers as ECMAScript writes them.
Integers outside ±(2^53 - 1) and NaN or infinite floats have no such form and are refused.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any, TypeAlias

Json: TypeAlias = "Mapping[str, Any] | Sequence[Any] | str | int | float | bool | None"

_SAFE_INTEGER = 2**53 - 1
# ECMAScript Number::toString switches to exponents outside 1e-7 < x < 1e21.
_LOWEST_POINT, _HIGHEST_POINT = -6, 21


class CanonicalFormError(ValueError):
    """The value has no canonical form (NaN, a huge integer, a key that is not text)."""


def canonical_json(value: Json) -> bytes:
    """Return the canonical UTF-8 bytes of ``value``.

    Raises:
        CanonicalFormError: the value cannot be written in canonical form.
    """
    parts: list[str] = []
    _write(value, parts)
    try:
        return "".join(parts).encode()
    except UnicodeEncodeError as error:
        raise CanonicalFormError("text holds a lone surrogate") from error


def sha256_hex(data: bytes) -> str:
    """Return the lower-case hexadecimal SHA-256 of ``data`` (64 characters)."""
    return hashlib.sha256(data).hexdigest()


def digest(value: Json) -> str:
    """Return the SHA-256 of the canonical form of ``value``, hexadecimal."""
    return sha256_hex(canonical_json(value))


def _write(value: object, parts: list[str]) -> None:
    if isinstance(value, str):
        parts.append(encode_basestring(value))
    elif type(value) is list and set(map(type, value)) == {str}:
        # Digests come in lists; it is what most documents are made of.
        parts.append("[" + ",".join(map(encode_basestring, value)) + "]")
    elif value is None or isinstance(value, bool):
        parts.append(json.dumps(value))
    elif isinstance(value, int):
        if abs(value) > _SAFE_INTEGER:
            raise CanonicalFormError(f"integer {value} is outside the range every JSON reader keeps exactly")
        parts.append(str(value))
    elif isinstance(value, float):
        parts.append(_float(value))
    elif isinstance(value, (dict, Mapping)):
        _write_object(value, parts)
    elif isinstance(value, (list, tuple, Sequence)) and not isinstance(value, (bytes, bytearray)):
        for index, item in enumerate(value):
            parts.append("," if index else "[")
            _write(item, parts)
        parts.append("]" if value else "[]")
    else:
        raise CanonicalFormError(f"{type(value).__name__} has no JSON form")


def _write_object(value: Mapping[str, Any], parts: list[str]) -> None:
    try:
        ascii_only = all(map(str.isascii, value))
    except TypeError:
        raise CanonicalFormError("object keys must be text") from None
    # RFC 8785 section 3.2.3: keys are sorted by UTF-16 code units, which for ASCII is how Python sorts text.
    keys = sorted(value) if ascii_only else sorted(value, key=lambda key: key.encode("utf-16-be", "surrogatepass"))
    for index, key in enumerate(keys):
        start, item = f"{',' if index else '{'}{encode_basestring(key)}:", value[key]
        # Most members are text and small numbers: written here, without a call for each.
        if type(item) is str:
            parts.append(start + encode_basestring(item))
        elif type(item) is int and -_SAFE_INTEGER <= item <= _SAFE_INTEGER:
            parts.append(start + str(item))
        else:
            parts.append(start)
            _write(item, parts)
    parts.append("}" if value else "{}")


def _float(value: float) -> str:
    if not math.isfinite(value):
        raise CanonicalFormError(f"{value} is not a JSON number")
    if value == 0:
        return "0"
    _sign, digits, exponent = Decimal(repr(abs(value))).normalize().as_tuple()
    text = "".join(map(str, digits))
    point = len(text) + int(exponent)
    if not _LOWEST_POINT < point <= _HIGHEST_POINT:
        mantissa = text[0] + ("." + text[1:] if len(text) > 1 else "")
        body = f"{mantissa}e{point - 1:+d}"
    elif point <= 0:
        body = "0." + "0" * -point + text
    elif point >= len(text):
        body = text + "0" * (point - len(text))
    else:
        body = text[:point] + "." + text[point:]
    return ("-" if value < 0 else "") + body
