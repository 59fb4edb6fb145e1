"""JSON-LD from others becomes the compact form of the Dataspace Protocol; the only door to pyld.

Nothing is ever fetched: the loader knows one context, and any other address is refused. A body is bounded in bytes,
depth, nodes and contexts before pyld sees it, and in seconds while it works. pyld is loaded on first use: most peers
send the compact form, which needs none of this. Source: Dataspace Protocol 2025-1; JSON-LD 1.1 Processing Algorithms.
"""

import functools
import json
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, cast

from policies.contexts import DSP_CONTEXT, dsp_context
from policies.errors import PolicyFormatError

MAX_BYTES = 1_048_576
MAX_DEPTH = 32
MAX_NODES = 20_000
MAX_CONTEXTS = 32
SECONDS = 10.0

# pyld works in pure Python and holds the interpreter lock: two conversions at a time leave room for the rest.
_SLOTS = threading.BoundedSemaphore(2)


def is_compact(body: Mapping[str, Any]) -> bool:
    """Say whether a message is plain JSON in the protocol's own terms: ``@context`` is an array of strings with it."""
    context = body.get("@context")
    return isinstance(context, list) and DSP_CONTEXT in context and all(isinstance(item, str) for item in context)


def compact_to_dsp(body: dict[str, Any], *, seconds: float = SECONDS) -> dict[str, Any]:
    """Return ``body`` expanded under its own context and compacted under the protocol's.

    Args:
        body: any JSON-LD document; contexts inside it must be inline or the DSP context.
        seconds: how long the conversion may take.

    Raises:
        PolicyFormatError: it is too large, too deep or too slow, names a context we do not hold, or is not JSON-LD.
    """
    _bound(body)
    if not _SLOTS.acquire(timeout=seconds):
        raise PolicyFormatError("the connector is busy reading other JSON-LD documents; send the compact form")
    answer: Future[dict[str, Any]] = Future()
    threading.Thread(target=_work, args=(body, answer), name="jsonld", daemon=True).start()
    try:
        return answer.result(timeout=seconds)
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
    compacted = jsonld.compact(expanded, _context()["@context"], {**options, "compactArrays": True})
    compacted["@context"] = [DSP_CONTEXT]
    return cast("dict[str, Any]", compacted)


@functools.cache
def _context() -> dict[str, Any]:
    return dsp_context()


def _load(url: str, _options: object) -> dict[str, Any]:
    if url != DSP_CONTEXT:
        raise PolicyFormatError("the document names a JSON-LD context that this connector does not hold")
    return {"contentType": "application/ld+json", "contextUrl": None, "documentUrl": url, "document": _context()}


def _bound(body: object) -> None:
    """Refuse what is too big, before anything recursive looks at it."""
    nodes = contexts = 0
    level: list[object] = [body]
    for _depth in range(MAX_DEPTH):
        below: list[object] = []
        for value in level:
            if isinstance(value, Mapping):
                contexts += "@context" in value
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
        nodes += len(below)
        if nodes > MAX_NODES or contexts > MAX_CONTEXTS:
            raise PolicyFormatError(f"more than {MAX_NODES} values or {MAX_CONTEXTS} contexts")
        level = below
        if not level:
            break
    else:
        raise PolicyFormatError(f"deeper than {MAX_DEPTH} levels")
    try:
        size = len(json.dumps(body))
    except (TypeError, ValueError) as error:
        raise PolicyFormatError("not a JSON document") from error
    if size > MAX_BYTES:
        raise PolicyFormatError(f"larger than {MAX_BYTES} bytes")
