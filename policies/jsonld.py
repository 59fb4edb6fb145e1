"""JSON-LD from others becomes the compact form of the Dataspace Protocol; the only door to pyld.

Nothing is ever fetched: the loader knows one context, and any other address is refused. A body is bounded in bytes,
depth, nodes and contexts before pyld sees it, and in seconds while it works. pyld is loaded on first use: most peers
send the compact form, which needs none of this. Source: Dataspace Protocol 2025-1; JSON-LD 1.1 Processing Algorithms.
"""

import functools
import json
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, cast

from policies.contexts import DSP_CONTEXT, PREFIXES, dsp_context
from policies.errors import PolicyFormatError

MAX_BYTES = 1_048_576
MAX_DEPTH = 32
# A message holds some hundred values. pyld takes a tenth of a millisecond for each, and cannot be stopped.
MAX_NODES = 4_000
MAX_CONTEXTS = 32
# A context that is bound to a term or a type is worked through again wherever that stands: its terms times the values.
MAX_SCOPED = 40_000
# The other limits keep the work below a second; this one is for a machine that has no time for it.
SECONDS = 5.0

# pyld works in pure Python and holds the interpreter lock: two conversions at a time leave room for the rest.
_SLOTS = threading.BoundedSemaphore(2)


def is_compact(body: Mapping[str, Any]) -> bool:
    """Say whether a message is plain JSON in the protocol's own terms: ``@context`` is an array of strings with it."""
    context = body.get("@context")
    return isinstance(context, list) and DSP_CONTEXT in context and all(isinstance(item, str) for item in context)


def compact_to_dsp(
    body: dict[str, Any], *, seconds: float = SECONDS, nodes: int = MAX_NODES, size: int = MAX_BYTES
) -> dict[str, Any]:
    """Return ``body`` expanded under its own context and compacted under the protocol's.

    Args:
        body: any JSON-LD document; contexts inside it must be inline or the DSP context.
        seconds: how long the caller waits, for its turn and for the conversion.
        nodes: how many values the document may hold.
        size: how many bytes it may have as JSON.

    Raises:
        PolicyFormatError: it is too large, too deep or too slow, names a context we do not hold, or is not JSON-LD.
    """
    deadline = time.monotonic() + seconds
    _bound(body, nodes, size)
    if not _SLOTS.acquire(timeout=seconds):
        raise PolicyFormatError("the connector is busy reading other JSON-LD documents; send the compact form")
    answer: Future[dict[str, Any]] = Future()
    threading.Thread(target=_work, args=(body, answer), name="jsonld", daemon=True).start()
    try:
        return answer.result(timeout=max(0.0, deadline - time.monotonic()))
    except FutureTimeoutError as error:
        raise PolicyFormatError(f"the JSON-LD document takes longer than {seconds:g} s to read") from error


def _work(body: dict[str, Any], answer: "Future[dict[str, Any]]") -> None:
    try:
        answer.set_result(_convert(body))
    except PolicyFormatError as error:
        answer.set_exception(error)
    except Exception as error:  # noqa: BLE001 - pyld raises anything at all on hostile input; the caller gets one kind
        answer.set_exception(PolicyFormatError(f"not JSON-LD that can be read here: {type(error).__name__}"))
    finally:
        _SLOTS.release()


def _convert(body: dict[str, Any]) -> dict[str, Any]:
    from pyld import jsonld  # noqa: PLC0415 - 0.2 s and several packages that the compact path never needs

    options = {"base": None, "documentLoader": _load, "processingMode": "json-ld-1.1"}
    expanded = jsonld.expand(body, options)
    if len(expanded) != 1:
        raise PolicyFormatError(f"the document describes {len(expanded)} things, one was expected")
    compacted = jsonld.compact(expanded, _terms(), {**options, "compactArrays": True})
    compacted["@context"] = [DSP_CONTEXT]
    return cast("dict[str, Any]", _named(compacted))


@functools.cache
def _context() -> dict[str, Any]:
    return dsp_context()


@functools.cache
def _terms() -> dict[str, Any]:
    """The context without its prefixes: an id that begins like one of ours must not come out shortened."""
    return {name: term for name, term in _context()["@context"].items() if name not in PREFIXES}


@functools.cache
def _names() -> dict[str, str]:
    """Terms by what they stand for."""
    return {term["@id"] if isinstance(term, dict) else str(term): name for name, term in _terms().items()}


def _named(value: Any) -> Any:
    """Give the protocol's members their names wherever a term did not fit.

    A term says how its value is written; somebody who wrote a text for a reference, or a list for a set, meant the same
    member. pyld keeps the full name for it.
    """
    if isinstance(value, list):
        return [_named(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    found: dict[str, Any] = {}
    for key, inner in value.items():
        name = str(_names().get(key, key))
        one = _named(inner)
        if name != key and isinstance(one, dict) and set(one) == {"@list"}:
            one = one["@list"]
        if name in found and name != "@context":
            before = found[name] if isinstance(found[name], list) else [found[name]]
            one = [*before, *(one if isinstance(one, list) else [one])]
        found[name] = one
    return found


def _load(url: str, _options: object) -> dict[str, Any]:
    if url != DSP_CONTEXT:
        raise PolicyFormatError("the document names a JSON-LD context that this connector does not hold")
    return {"contentType": "application/ld+json", "contextUrl": None, "documentUrl": url, "document": _context()}


def _bound(body: object, most: int, longest: int) -> None:
    """Refuse what is too big, before anything recursive looks at it."""
    values = nodes = contexts = scoped = generation = 0
    waiting: list[object] = [body]
    while waiting:
        met: list[object] = []
        counted = _count(waiting, most - nodes, met)
        nodes += counted
        values += counted if generation == 0 else 0
        # A context inside a context is bound to a term or a type.
        scoped += counted if generation > 1 else 0
        contexts += len(met)
        if nodes > most or contexts > MAX_CONTEXTS:
            raise PolicyFormatError(f"more than {most} values or {MAX_CONTEXTS} contexts")
        waiting, generation = met, generation + 1
    if scoped * values > MAX_SCOPED:
        raise PolicyFormatError("contexts within contexts, over more values than can be read in time")
    try:
        size = len(json.dumps(body))
    except (TypeError, ValueError) as error:
        raise PolicyFormatError("not a JSON document") from error
    if size > longest:
        raise PolicyFormatError(f"larger than {longest} bytes")


def _count(roots: list[object], most: int, contexts: list[object]) -> int:
    """Count the values below ``roots``, at most one level more than ``most``; contexts are put aside for later."""
    nodes = 0
    level = roots
    for _depth in range(MAX_DEPTH):
        below: list[object] = []
        for value in level:
            if isinstance(value, Mapping):
                below.extend(inner for name, inner in value.items() if name != "@context")
                if "@context" in value:
                    contexts.append(value["@context"])
            elif isinstance(value, list):
                below.extend(value)
        nodes += len(below)
        if not below or nodes > most:
            return nodes
        level = below
    raise PolicyFormatError(f"deeper than {MAX_DEPTH} levels")
