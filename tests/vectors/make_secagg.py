"""Write ``secagg_star.json``: vectors of the secure aggregation protocol, made by the plain description.

Run: ``python -m tests.vectors.make_secagg``. Everything comes from ``tests/support/secagg_plain.py``, which imports
nothing from the project; boxes are randomised and therefore not recorded.
"""

import hashlib
import json
from pathlib import Path

from tests.support import secagg_plain as plain

FILE = Path(__file__).with_name("secagg_star.json")
SHAPES = ((2, 1), (3, 1), (3, 2), (4, 1), (4, 2), (5, 2), (5, 3), (6, 3), (7, 3))


def case(m: int, t: int, k: int, d: int) -> dict[str, object]:
    """Return one upload and the shares that the seats make of it alone."""
    context = {
        "job": "urn:uuid:00000000-0000-4000-8000-000000000001",
        "manifest": hashlib.sha256(b"manifest").hexdigest(),
        "plan": hashlib.sha256(b"plan").hexdigest(),
        "model": hashlib.sha256(b"model").hexdigest(),
        "round": 3,
        "attempt": 1,
        "k": k,
        "d": d,
        "group": "0",
        "aggregation": "star",
    }
    digest = hashlib.sha256(plain.canonical(context)).digest()
    table = plain.holders(m, t)
    seeds = [hashlib.sha256(f"seed {index} of ({m},{t})".encode()).digest() for index in range(len(table))]
    values = [(index * 2654435761 + 17) % 2**k for index in range(d)]
    total = list(values)
    for index, seed in enumerate(seeds):
        words = plain.mask(seed, b"orchard/secagg/mask/1\0" + digest + index.to_bytes(2, "big"), d, k)
        total = [(a + b) % 2**k for a, b in zip(total, words, strict=True)]
    return {
        "context": context,
        "context_digest": digest.hex(),
        "seats": m,
        "threshold": t,
        "holders": table,
        "seeds": [seed.hex() for seed in seeds],
        "commitments": [
            hashlib.sha256(b"orchard/secagg/seed/1\0" + digest + index.to_bytes(2, "big") + seed).hexdigest()
            for index, seed in enumerate(seeds)
        ],
        "x": [str(value) for value in values],
        "x_packed": plain.pack(values, k).hex(),
        "y_packed": plain.pack(total, k).hex(),
        "y_digest": plain.vector_digest(plain.pack(total, k)),
    }


def vectors() -> dict[str, object]:
    """Return the whole file's value."""
    rings = (8, 12, 20, 24, 31, 32, 64)
    good = [case(m, t, rings[number % len(rings)], 5 + 3 * number) for number, (m, t) in enumerate(SHAPES)]
    bad = [
        {"why": "one byte short", "k": 20, "d": 3, "packed": "00" * 7},
        {"why": "one byte long", "k": 20, "d": 3, "packed": "00" * 9},
        {"why": "a spare bit is set", "k": 20, "d": 3, "packed": "00" * 7 + "80"},
        {"why": "empty", "k": 32, "d": 1, "packed": ""},
    ]
    return {
        "provenance": "made by tests/vectors/make_secagg.py from tests/support/secagg_plain.py, "
        "plain integers and AES-ECB blocks, independent of learning/secagg",
        "good": good,
        "bad": bad,
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), indent=1) + "\n", encoding="utf-8")
