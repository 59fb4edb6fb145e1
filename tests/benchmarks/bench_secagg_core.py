"""CPU per role of the star, beside the floor that AES and memory set on this machine.

Run: ``python -m tests.benchmarks.bench_secagg_core [--n 100] [--d 1000000] [--seats 5] [--threshold 2]``. Exits 3 when a
bar is missed.
"""

import argparse
import sys
import time

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from learning.secagg.contributor import UploadPackage, prepare_upload
from learning.secagg.layout import Section, VectorLayout, best_scale
from learning.secagg.packing import RingVector
from learning.secagg.quantize import RoundingStream
from tests.benchmarks import MISSED_BAR
from tests.support.secagg_star import Star, make_context, make_group, make_star, member_id, member_signer

CONTRIBUTOR_MS = 20.0
AGGREGATOR_RATIO = 2.0
UPLOAD_RATIO = 1.002
_BLOCK = 1 << 18


def aes_add_rate() -> float:
    """Return bytes per second of AES-CTR expansion fused with the addition, block in cache: the floor's first term."""
    zeros, buffer = bytes(_BLOCK), bytearray(_BLOCK + 16)
    words = np.frombuffer(buffer, dtype="<u4", count=_BLOCK // 4)
    total = np.zeros(_BLOCK // 4, dtype="<u4")
    stream = Cipher(AES(bytes(16)), CTR(bytes(16))).encryptor()
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        for _ in range(256):
            stream.update_into(zeros, buffer)
            np.add(total, words, out=total)
        best = min(best, time.process_time() - start)
    return 256 * _BLOCK / best


def add_rate(d: int) -> float:
    """Return bytes per second of adding vectors that are not in cache: the floor's second term."""
    vectors, total = np.ones((16, d), dtype="<u4"), np.zeros(d, dtype="<u4")
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        for vector in vectors:
            np.add(total, vector, out=total)
        best = min(best, time.process_time() - start)
    return vectors.nbytes / best


def contribute(
    n: int, d: int, shape: tuple[int, int], star: Star
) -> tuple[list[UploadPackage], RingVector, list[float]]:
    """Return every package, the clear sum, and the CPU seconds of each contributor (encode, mask, seal, sign)."""
    layout = VectorLayout(sections=(Section(name="w", size=d, bound=1.0, scale_bits=best_scale(1.0, n)),))
    group = make_group(*shape, n_max=n)
    packages, costs, total = [], [], np.zeros(d, dtype="<u4")
    for number in range(n):
        values = np.random.default_rng(number).standard_normal(d, dtype=np.float32) * np.float32(0.1)
        start = time.process_time()
        vector = layout.encode({"w": values}, RoundingStream(number.to_bytes(32, "big")))
        packages.append(
            prepare_upload(
                vector,
                context=star.context,
                group=group,
                signer=member_signer(number),
                contributor=member_id(number),
            )
        )
        costs.append(time.process_time() - start)
        total += vector
    return packages, total, costs


def main() -> int:
    """Print the table; return 3 when a bar is missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--d", type=int, default=1_000_000)
    parser.add_argument("--seats", type=int, default=5)
    parser.add_argument("--threshold", type=int, default=2)
    given = parser.parse_args()
    n, d, shape = given.n, given.d, (given.seats, given.threshold)
    star = make_star(*shape, context=make_context(k=32, d=d), members=n)
    star.group = make_group(*shape, n_max=n, copies=1)
    aes, add = aes_add_rate(), add_rate(d)
    packages, expected, costs = contribute(n, d, shape, star)

    accept = time.process_time()
    for package in packages:
        star.upload(package)
    accept = time.process_time() - accept
    agree = time.process_time()
    proposed, statements = star.agree()
    agree = time.process_time() - agree
    expand = time.process_time()
    for column in range(shape[0]):
        star.release(column, proposed, statements)
    expand = time.process_time() - expand
    collect = time.process_time()
    total = star.finish(proposed)
    collect = time.process_time() - collect

    seeds = len(star.group.table)
    floor = 4 * n * d * (seeds / aes + 1 / add)
    upload = (len(packages[0].vector) + sum(map(len, packages[0].boxes)) + len(str(packages[0].document))) / (4 * d)
    contributor_ms = 1000 * float(np.median(costs))
    aggregator = expand + collect
    rows = [
        ("contributor, median", f"{contributor_ms:.1f} ms", f"bar {CONTRIBUTOR_MS:g} ms"),
        ("upload / float32 vector", f"{upload:.5f}", f"bar {UPLOAD_RATIO}"),
        ("seats: accept (HPKE, SHA-256, signatures)", f"{accept:.3f} s", ""),
        ("seats: agree on the set", f"{agree:.3f} s", ""),
        ("seats: release (masks, carried vectors)", f"{expand:.3f} s", ""),
        ("collector: add shares", f"{collect:.3f} s", ""),
        ("release + collect / floor", f"{aggregator / floor:.2f}", f"bar {AGGREGATOR_RATIO:g}, floor {floor:.3f} s"),
        ("accept + agree + release + collect / floor", f"{(accept + agree + aggregator) / floor:.2f}", ""),
        ("total CPU", f"{sum(costs) + accept + agree + aggregator:.2f} s", ""),
        ("exact", str(np.array_equal(total, expected)), "secure sum = clear sum"),
    ]
    print(f"n={n} d={d} (m,t)={shape} seeds={seeds}; AES+add {aes / 1e9:.2f} GB/s, add {add / 1e9:.2f} GB/s")
    for name, value, note in rows:
        print(f"  {name:<44}{value:>12}  {note}")
    missed = (
        contributor_ms > CONTRIBUTOR_MS
        or upload > UPLOAD_RATIO
        or aggregator > AGGREGATOR_RATIO * floor
        or not np.array_equal(total, expected)
    )
    return MISSED_BAR * missed


if __name__ == "__main__":
    sys.exit(main())
