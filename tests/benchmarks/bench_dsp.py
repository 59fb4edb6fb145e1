"""Negotiations and catalog pages between two connectors on this machine, on SQLite and PostgreSQL.

Run: ``python -m tests.benchmarks.bench_dsp [--kind sqlite] [--only burst] [--burst 1000] [--finished 100000]``; the whole
table stands once more at the end. Exits 3 when a bar is missed. Both connectors, the database and the client share the
machine; the client's own time is not counted.

What is compared (catalogs of three sizes; a database with and without 100,000 finished negotiations) runs at once and is
asked in turn, each warmed up before: a minute in which the machine is slower is then a minute of all.
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
from tests.benchmarks.dsp_stage import Line, PeerLine, Rows, Stage, load, pace, stage

BARS = {"p50": 50.0, "p95": 100.0, "cpu": 25.0, "page": 20.0, "flat": 1.5}
RATES = {"sqlite": 90.0, "postgresql": 75.0}
_THREADS = 8
_WARM = 40
_WARM_PAGES = 20
_TURNS = 10
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


def pages(stages: Sequence[Stage], repeats: int) -> list[tuple[list[float], list[float], int]]:
    """Return, of each stage, milliseconds per request of the first and of the last catalog page, and the latter's size.

    Every stage and page is asked once before any is asked again.
    """
    first = "/dsp/2025-1/catalog/request"
    body = {"@context": ["https://w3id.org/dspace/2025/1/context.jsonld"], "@type": "CatalogRequestMessage"}
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(contextlib.closing(PeerLine(one))) for one in stages]
        lasts = [f"{first}?page={_last_token(one)}" for one in stages]
        sizes = [len(json.loads(line.post(last, body)[1])["dataset"]) for line, last in zip(lines, lasts, strict=True)]
        took: list[tuple[list[float], list[float]]] = [([], []) for _ in stages]
        for turn in range(repeats + _WARM_PAGES):
            for line, last, times in zip(lines, lasts, took, strict=True):
                for path, into in zip((first, last), times, strict=True):
                    started = time.perf_counter()
                    line.post(path, body)
                    if turn >= _WARM_PAGES:
                        into.append((time.perf_counter() - started) * 1000)
    return [(*times, size) for times, size in zip(took, sizes, strict=True)]


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


@dataclasses.dataclass
class Measured:
    """What was found on one stage: single negotiations in milliseconds, bursts, and catalog pages in milliseconds."""

    label: str
    singles: list[float] = dataclasses.field(default_factory=list)
    bursts: list[tuple[float, float, dict[str, float]]] = dataclasses.field(default_factory=list)
    paces: list[float] = dataclasses.field(default_factory=list)
    pages: tuple[list[float], list[float], int] = ([], [], 0)

    def figures(self) -> dict[str, float]:
        """Return the medians, each the better the smaller."""
        return {
            "p50": statistics.median(self.singles),
            "p95": statistics.quantiles(self.singles, n=20)[-1],
            "burst": 1 / statistics.median(rate for rate, _, _ in self.bursts),
            "CPU": statistics.median(sum(cpu.values()) for _, _, cpu in self.bursts) * 1000,
            "first page": statistics.median(self.pages[0]),
            "last page": statistics.median(self.pages[1]),
        }


def measure_negotiations(found: Found, kind: str, args: argparse.Namespace, filled: Sequence[int]) -> None:
    """Print latency, bursts, processor time and a catalog's pages, with so many finished negotiations each; then ratios."""
    with contextlib.ExitStack() as stack:
        stages = [stack.enter_context(opened(kind, datasets=1000, finished=count)) for count in filled]
        measured = [Measured(label=f"with {count:,} finished: " if count else "") for count in filled]
        pairs = list(zip(stages, measured, strict=True))
        for one in stages:
            burst(one, args.burst // 5)
        for turn in range(_TURNS):
            for one, into in pairs[:: 1 - turn % 2 * 2]:
                into.singles += negotiate(one, args.single // _TURNS)
        for turn in range(args.bursts):
            for one, into in pairs[:: 1 - turn % 2 * 2]:
                into.paces.append(pace())
                into.bursts.append(burst(one, args.burst))
        for into, times in zip(measured, pages(stages, args.pages), strict=True):
            into.pages = times
    for into in measured:
        _print(found, kind, into)
    plain, *others = [into.figures() for into in measured]
    for count, other in zip(filled[1:], others, strict=True):
        for what, value in other.items():
            found.row(kind, f"{what} with {count:,} finished by none", value / plain[what], "x", BARS["flat"])


def _print(found: Found, kind: str, into: Measured) -> None:
    values, label = into.figures(), into.label
    found.row(kind, f"{label}one negotiation, p50 of {len(into.singles)}", values["p50"], "ms", BARS["p50"])
    found.row(kind, f"{label}one negotiation, p95", values["p95"], "ms", BARS["p95"])
    rates = [rate for rate, _, _ in into.bursts]
    found.row(kind, f"{label}burst, all FINALIZED", 1 / values["burst"], "/s", RATES[kind], at_least=True)
    found.row(kind, f"{label}  started at", statistics.median(offered for _, offered, _ in into.bursts), "/s", None)
    found.row(kind, f"{label}CPU per negotiation, both and database", values["CPU"], "ms", BARS["cpu"])
    split = ", ".join(
        f"{part} {statistics.median(cpu[part] for _, _, cpu in into.bursts) * 1000:.1f}" for part in into.bursts[0][2]
    )
    print(f"{'':12}  bursts {_listed(rates)} /s; CPU {split} ms; {load()}")
    print(f"{'':12}  a fixed loop before each: {_listed(into.paces)} ms of CPU", flush=True)
    found.row(kind, f"{label}catalog page of 100 of 1,000, first, p50", values["first page"], "ms", BARS["page"])
    found.row(kind, f"{label}catalog page of 100 of 1,000, last, p50", values["last page"], "ms", BARS["page"])


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


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
    sizes = (100, 10_000, 100_000)
    with contextlib.ExitStack() as stack:
        stages = [stack.enter_context(opened(kind, datasets=size)) for size in sizes]
        took = pages(stages, args.pages)
    medians = []
    for size, (first, last, entries) in zip(sizes, took, strict=True):
        for name, times in (("first", first), ("last", last)):
            medians.append(statistics.median(times))
            found.row(kind, f"catalog page of {entries} of {size:,}, {name}, p50", medians[-1], "ms", BARS["page"])
    found.row(kind, "catalog, slowest p50 by fastest", max(medians) / min(medians), "x", BARS["flat"])
    print(f"{'':12}  {load()}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 3 when a bar is missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=[*RATES], action="append")
    parser.add_argument("--only", choices=["burst", "parts", "catalog", "finished"], action="append")
    parser.add_argument("--single", type=int, default=200)
    parser.add_argument("--burst", type=int, default=1000)
    parser.add_argument("--bursts", type=int, default=3)
    parser.add_argument("--pages", type=int, default=150)
    parser.add_argument("--finished", type=int, default=100_000)
    args = parser.parse_args(arguments)
    found, chosen = Found(), args.only or ["burst", "parts", "catalog", "finished"]
    print(f"two connectors, their database and the client on one machine; {load()}")
    for kind in args.kind or RATES:
        if "burst" in chosen or "finished" in chosen:
            measure_negotiations(found, kind, args, (0, args.finished) if "finished" in chosen else (0,))
        if "parts" in chosen:
            measure_parts(kind, args)
        if "catalog" in chosen:
            measure_catalog(found, kind, args)
    print(f"\nall of it ({load()}):\n" + "\n".join(found.lines))
    print(f"bars missed: {', '.join(found.missed) or 'none'}", flush=True)
    return MISSED_BAR * bool(found.missed)


if __name__ == "__main__":
    sys.exit(main())
