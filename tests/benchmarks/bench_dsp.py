"""Negotiations and catalog pages between two connectors on this machine, on SQLite and PostgreSQL.

Run: ``python -m tests.benchmarks.bench_dsp [--kind sqlite] [--only burst] [--burst 1000] [--finished 100000]``; the whole
table stands once more at the end. Exits 3 when a bar is missed. Both connectors, the database and the client share the machine; the client's own time is not counted.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from connector.settings import Settings
from contracts.catalog import page_token
from tests.benchmarks import MISSED_BAR
from tests.benchmarks.dsp_fill import fill_datasets, fill_finished, offer
from tests.benchmarks.dsp_probe import PARTS
from tests.benchmarks.dsp_stage import Line, PeerLine, Rows, Stage, load, stage

BARS = {"p50": 50.0, "p95": 100.0, "cpu": 25.0, "page": 20.0, "flat": 1.5}
RATES = {"sqlite": 90.0, "postgresql": 75.0}
_THREADS = 8
_WARM = 40
_FINISHED = "SELECT count(*) FROM dsp_processes WHERE kind = 'negotiation' AND state = 'FINALIZED' AND created_at >= ?"
_ENDED = "SELECT count(*) FROM dsp_processes WHERE kind = 'negotiation' AND state = 'TERMINATED' AND created_at >= ?"


@dataclasses.dataclass
class Found:
    """The table, and which bars were missed."""

    lines: list[str] = dataclasses.field(default_factory=list)
    missed: list[str] = dataclasses.field(default_factory=list)

    def row(self, kind: str, what: str, value: float, unit: str, bar: float | None, *, at_least: bool = False) -> None:
        """Print one figure and judge it."""
        good = bar is None or (value >= bar if at_least else value <= bar)
        sign = "" if bar is None else f"{'>=' if at_least else '<='} {bar:g}"
        line = f"{kind:12}{what:58}{value:10.1f} {unit:8}{sign:10}{'' if good else 'MISSED'}"
        print(line, flush=True)
        self.lines.append(line)
        if not good:
            self.missed.append(f"{kind}: {what}")


def negotiate(stage_: Stage, count: int) -> list[float]:
    """Run negotiations one after the other; returns milliseconds from the operator's request to FINALIZED, each."""
    rows, found = Rows(stage_.consumer.settings.storage.database_url), []
    with contextlib.closing(rows), contextlib.closing(Line(stage_.consumer)) as line:
        for _ in range(count):
            started = time.perf_counter()
            pid = line.call("POST", "/management/negotiations", wanted(stage_))["pid"]
            while rows.one("SELECT state FROM dsp_processes WHERE pid = ?", pid) != "FINALIZED":
                if time.perf_counter() - started > 30:
                    raise AssertionError("a negotiation did not end")
                time.sleep(0.001)
            found.append((time.perf_counter() - started) * 1000)
    return found


def burst(stage_: Stage, count: int) -> tuple[float, float, dict[str, float]]:
    """Start ``count`` negotiations as fast as the operator's routes take them, and wait until all are FINALIZED.

    Returns negotiations per second, the start rate, and processor seconds by part.
    """
    since = int(time.time_ns() // 1000)
    before, started = stage_.cpu_seconds(), time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda n: _start(stage_, n), [count // _THREADS] * _THREADS))
    offered = time.perf_counter() - started
    both = [Rows(one.settings.storage.database_url) for one in (stage_.consumer, stage_.provider)]
    total = count // _THREADS * _THREADS
    while any(rows.one(_FINISHED, since) < total for rows in both):
        if any(rows.one(_ENDED, since) for rows in both) or time.perf_counter() - started > 300:
            raise AssertionError("not every negotiation of the burst was FINALIZED")
        time.sleep(0.1)
    seconds, after = time.perf_counter() - started, stage_.cpu_seconds()
    for rows in both:
        rows.close()
    return total / seconds, total / offered, {part: (after[part] - before[part]) / total for part in after}


def wanted(stage_: Stage) -> dict[str, Any]:
    """Return the body that starts a negotiation; it names the offer, so no catalog is read."""
    terms = {"@id": "urn:offer:0000000", **offer()}
    return {"participant_id": stage_.provider.id, "dataset_id": "urn:dataset:0000000", "offer": terms}


def _start(stage_: Stage, count: int) -> None:
    with contextlib.closing(Line(stage_.consumer)) as line:
        for _ in range(count):
            line.call("POST", "/management/negotiations", wanted(stage_))


def pages(stage_: Stage, repeats: int) -> tuple[list[float], list[float], int]:
    """Return milliseconds per request of the first and of the last catalog page, in turn, and the last page's size."""
    first = "/dsp/2025-1/catalog/request"
    body = {"@context": ["https://w3id.org/dspace/2025/1/context.jsonld"], "@type": "CatalogRequestMessage"}
    took: tuple[list[float], list[float]] = ([], [])
    with contextlib.closing(PeerLine(stage_)) as line:
        last = f"{first}?page={_last_token(stage_)}"
        size = len(json.loads(line.post(last, body)[1])["dataset"])
        for turn in range(repeats + 5):
            for path, times in zip((first, last), took, strict=True):
                started = time.perf_counter()
                line.post(path, body)
                if turn >= 5:
                    times.append((time.perf_counter() - started) * 1000)
    return *took, size


def _last_token(stage_: Stage) -> str:
    with contextlib.closing(Rows(stage_.provider.settings.storage.database_url)) as rows:
        ids = rows.all("SELECT id FROM dsp_datasets ORDER BY id DESC LIMIT 101")
    return page_token(after=ids[-1][0]) if len(ids) == 101 else page_token(after="urn:dataset:")


@contextlib.contextmanager
def opened(kind: str, *, datasets: int = 1, finished: int = 0, probe: bool = False) -> Iterator[Stage]:
    """Give a warmed-up stage."""

    def fill(consumer: Settings, provider: Settings) -> None:
        fill_datasets(provider, datasets)
        if finished:
            fill_finished(consumer, provider, finished)

    with stage(kind, fill, probe=probe) as found:
        negotiate(found, _WARM)
        yield found


def measure_negotiations(found: Found, kind: str, args: argparse.Namespace, finished: int) -> dict[str, float]:
    """Print latency, burst, processor time and a catalog's pages; returns them, each the better the smaller."""
    label = f"with {finished:,} finished: " if finished else ""
    with opened(kind, datasets=1000, finished=finished) as running:
        times = negotiate(running, args.single)
        median, tail = statistics.median(times), statistics.quantiles(times, n=20)[-1]
        found.row(kind, f"{label}one negotiation, p50 of {args.single}", median, "ms", BARS["p50"])
        found.row(kind, f"{label}one negotiation, p95", tail, "ms", BARS["p95"])
        rate, offered, cpu = burst(running, args.burst)
        found.row(kind, f"{label}burst of {args.burst}, all FINALIZED", rate, "/s", RATES[kind], at_least=True)
        found.row(kind, f"{label}  started at", offered, "/s", None)
        total = sum(cpu.values()) * 1000
        found.row(kind, f"{label}CPU per negotiation, both and database", total, "ms", BARS["cpu"])
        split = ", ".join(f"{part} {seconds * 1000:.1f}" for part, seconds in cpu.items())
        print(f"{'':12}  of it: {split} ms; {load()}", flush=True)
        first, last, _ = pages(running, args.pages)
        ends = [statistics.median(times) for times in (first, last)]
        found.row(kind, f"{label}catalog page of 100 of 1,000, first, p50", ends[0], "ms", BARS["page"])
        found.row(kind, f"{label}catalog page of 100 of 1,000, last, p50", ends[1], "ms", BARS["page"])
    return {"p50": median, "p95": tail, "burst": 1 / rate, "CPU": total, "first page": ends[0], "last page": ends[1]}


def measure_parts(kind: str, args: argparse.Namespace) -> None:
    """Print where the processor time of a burst goes, both connectors together."""
    with opened(kind, probe=True) as running:
        before = _parts(running)
        burst(running, args.burst)
        after = _parts(running)
    spent = {part: (after.get(part, 0.0) - before.get(part, 0.0)) * 1000 / args.burst for part in PARTS}
    print(
        f"{kind:12}where it goes, ms per negotiation over both connectors ({sum(spent.values()):.1f} with the counting):"
    )
    print(" " * 14 + ", ".join(f"{part} {value:.1f}" for part, value in spent.items()), flush=True)


def _parts(stage_: Stage) -> dict[str, float]:
    time.sleep(0.5)
    read = [json.loads(one.probe.read_text()) for one in (stage_.consumer, stage_.provider)]
    return {part: sum(one.get(part, 0.0) for one in read) for part in PARTS}


def measure_catalog(found: Found, kind: str, args: argparse.Namespace) -> None:
    """Print catalog pages of 100 from catalogs of three sizes."""
    medians = []
    for size in (100, 10_000, 100_000):
        with opened(kind, datasets=size) as running:
            first, last, entries = pages(running, args.pages)
        for name, times in (("first", first), ("last", last)):
            medians.append(statistics.median(times))
            found.row(kind, f"catalog page of {entries} of {size:,}, {name}, p50", medians[-1], "ms", BARS["page"])
    found.row(kind, "catalog, slowest p50 by fastest", max(medians) / min(medians), "x", BARS["flat"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 3 when a bar is missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=[*RATES], action="append")
    parser.add_argument("--only", choices=["burst", "parts", "catalog", "finished"], action="append")
    parser.add_argument("--single", type=int, default=200)
    parser.add_argument("--burst", type=int, default=1000)
    parser.add_argument("--pages", type=int, default=60)
    parser.add_argument("--finished", type=int, default=100_000)
    args = parser.parse_args(arguments)
    found, chosen = Found(), args.only or ["burst", "parts", "catalog", "finished"]
    print(f"two connectors, their database and the client on one machine; {load()}")
    for kind in args.kind or RATES:
        plain: dict[str, float] | None = None
        if "burst" in chosen:
            plain = measure_negotiations(found, kind, args, 0)
        if "parts" in chosen:
            measure_parts(kind, args)
        if "finished" in chosen:
            after = measure_negotiations(found, kind, args, args.finished)
            if plain:
                for what, value in after.items():
                    label = f"{what} with {args.finished:,} finished by none"
                    found.row(kind, label, value / plain[what], "x", BARS["flat"])
        if "catalog" in chosen:
            measure_catalog(found, kind, args)
    print(f"\nall of it ({load()}):\n" + "\n".join(found.lines))
    print(f"bars missed: {', '.join(found.missed) or 'none'}", flush=True)
    return MISSED_BAR * bool(found.missed)


if __name__ == "__main__":
    sys.exit(main())
