"""``orchard serve`` with its processor time counted by what it was spent on.

Run: ``python -m tests.benchmarks.dsp_probe DIR [FILE]``. Without FILE it is plain ``orchard serve``. With it, a fifth of
a second apart, the seconds of processor time so far are written to FILE, by part; each thread's time is counted once, to
the innermost part that it is in.
"""

import functools
import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from connector.cli.serve import serve
from connector.http import dsp
from connector.identity.tokens import IdentityIssuer, IdentityVerifier
from connector.observability import RequestLog
from connector.peers.client import PeerClient
from connector.storage import datasets
from connector.storage.database import Database
from connector.storage.statements import Statement
from contracts import agreement, codec, recorder
from policies.gate import PolicyGate

PARTS = ("HTTP in", "HTTP out", "JSON", "SQL", "policy", "signatures", "machine", "log")
_totals: dict[str, float] = defaultdict(float)
_open = threading.local()


def counted(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` with its thread's processor time counted to ``part``, less what inner parts take."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        outer, started = getattr(_open, "inner", None), time.thread_time()
        _open.inner = 0.0
        try:
            return function(*args, **kwargs)
        finally:
            spent = time.thread_time() - started
            _totals[part] += spent - _open.inner
            _open.inner = None if outer is None else outer + spent

    return run


def probe() -> None:
    """Count the functions that do the work."""
    for part, owner, name in (
        ("signatures", IdentityIssuer, "authorization"),
        ("signatures", IdentityVerifier, "verify"),
        ("signatures", agreement, "conclude"),
        ("signatures", agreement, "is_signed"),
        ("HTTP out", PeerClient, "request"),
        ("policy", PolicyGate, "decide"),
        ("JSON", codec, "parse"),
        ("JSON", dsp, "parse"),
        ("JSON", recorder, "dumps"),
        ("JSON", recorder, "encode"),
        ("log", RequestLog, "_note"),
    ):
        setattr(owner, name, counted(part, getattr(owner, name)))
    run = counted("SQL", Database.run)
    Database.run = lambda self, name, work: run(self, name, counted("machine", work))  # type: ignore[method-assign]
    _count_statements()


def _count_statements() -> None:
    for owner, name in ((Statement, "run"), (Statement, "later"), (datasets, "catalog_page")):
        setattr(owner, name, counted("SQL", getattr(owner, name)))


def _report(out: Path) -> None:
    while True:
        time.sleep(0.2)
        known = dict(_totals)
        # What no part claims is reading and answering requests: the server's loop, routing, and the threads' own cost.
        known["HTTP in"] = time.process_time() - sum(known.values())
        fresh = out.with_suffix(".new")
        fresh.write_text(json.dumps(known))
        fresh.replace(out)


def main() -> None:
    """Serve."""
    folder, out = Path(sys.argv[1]), sys.argv[2]
    if out:
        probe()
        threading.Thread(target=_report, args=(Path(out),), daemon=True).start()
    serve(folder)


if __name__ == "__main__":
    main()
