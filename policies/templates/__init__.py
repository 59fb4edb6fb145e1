"""Policies for the usual education offers, as JSON with named places to fill.

A place is ``"$name"`` as a whole value; nothing is filled inside a text. What comes out has been parsed, so that a
template that is filled wrongly is noticed before anybody sees the offer.
"""

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, cast

from policies.errors import PolicyFormatError
from policies.parse import parse_policy


def template_names() -> list[str]:
    """Return the names of the templates that come with this version."""
    return sorted(
        item.name.removesuffix(".json") for item in resources.files(__name__).iterdir() if item.name.endswith(".json")
    )


def fill_template(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the policy of a template with its places filled.

    Args:
        name: one of :func:`template_names`.
        values: a JSON value for each place.

    Raises:
        PolicyFormatError: no such template, a place without a value, a value without a place, or a result that is not
            a policy.
    """
    if name not in template_names():
        raise PolicyFormatError(f"there is no template of that name; there are {', '.join(template_names())}")
    text = resources.files(__name__).joinpath(f"{name}.json").read_text(encoding="utf-8")
    used: set[str] = set()
    policy = cast("dict[str, Any]", _fill(json.loads(text), values, used))
    if set(values) - used:
        raise PolicyFormatError(f"the template has no place for {', '.join(sorted(set(values) - used))}")
    parse_policy(policy)
    return policy


def _fill(value: object, values: Mapping[str, Any], used: set[str]) -> object:
    if isinstance(value, str) and value.startswith("$"):
        place = value[1:]
        if place not in values:
            raise PolicyFormatError(f"the template needs a value for {place}")
        used.add(place)
        return values[place]
    if isinstance(value, Mapping):
        return {key: _fill(item, values, used) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_fill(item, values, used) for item in value]
    return value
