"""Canonical JSON: the bytes that digests and signatures are made over (RFC 8785)."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.canonical import CanonicalFormError, canonical_json

# Keys in the order of RFC 8785, section 3.2.3 (by UTF-16 code units, so that the face sorts before the last one).
ORDERED = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
# Whole numbers from 2**53 on are written without an exponent and read back as integers that have no form.
numbers = st.one_of(st.integers(-(2**53) + 1, 2**53 - 1), st.floats(-9e15, 9e15))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=20,
)


def test_keys_are_sorted_as_the_standard_says() -> None:
    """The standard's own example, from any order."""
    document = dict.fromkeys(sorted(ORDERED), 0)
    assert list(json.loads(canonical_json(document))) == ORDERED


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1.0, b"1"),
        (-0.0, b"0"),
        (1e21, b"1e+21"),
        (1e20, b"100000000000000000000"),
        (1e-7, b"1e-7"),
        (0.000001, b"0.000001"),
    ],
)
def test_numbers_are_written_as_ecmascript_does(number: float, text: bytes) -> None:
    """Examples of RFC 8785, appendix B."""
    assert canonical_json(number) == text


@given(values)
def test_what_is_written_reads_back_the_same_and_is_stable(value: Any) -> None:
    """Canonical bytes keep the value, and are their own canonical form."""
    data = canonical_json(value)
    assert json.loads(data) == value
    assert canonical_json(json.loads(data)) == data


@pytest.mark.parametrize("value", [float("nan"), 2**53, {1: 2}, {"a": "\ud800"}, b"bytes", {"a": object()}])
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    """Nothing is rounded, recoded or guessed."""
    with pytest.raises(CanonicalFormError):
        canonical_json(value)
