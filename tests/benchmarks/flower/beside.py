"""Starts Flower's round in the environment that ``make bench-secagg`` made for it."""

import dataclasses
import json
import os
import subprocess
from pathlib import Path

VENV = Path(".cache/flower-venv")
_SCRIPT = Path(__file__).with_name("secaggplus.py")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flower:
    """What one round of SecAgg+ cost, CPU seconds.

    Attributes:
        neighbours: to how many others each client is tied.
        threshold: shares that open a client's secrets.
        finished: whether the round came to its end.
        total: everybody.
        server: the server alone.
        per_client: one client, on average.
        upload: bytes of the third stage's answer.
        error: largest distance of the mean from the survivors' true mean.
        peak: most bytes that the one process held.
    """

    neighbours: int
    threshold: int
    finished: bool
    total: float
    server: float
    per_client: float
    upload: int
    error: float | None
    peak: int


def installed() -> bool:
    """Say whether there is an environment with Flower in it."""
    return (VENV / "bin" / "python").exists()


def degree(n: int, dropout: float, *, stronger: bool) -> tuple[int, int]:
    """Return (shares, threshold): the client with its neighbours, and how many of their shares open its secrets.

    20 neighbours and 14 shares for 100 clients is a degree against a server that only listens; with more dropouts
    fewer shares must do, which is cheaper for Flower. ``stronger`` is the degree against one that also lies, with a
    tenth of the clients on its side and a tenth gone (Bell et al. 2020), for 100 clients.
    """
    if stronger:
        return 33, 22
    shares = min(21 if n <= 100 else 31, n | 1)
    part = 2 / 3 if dropout <= 5 else 1 / 2 if dropout <= 10 else 1 / 3
    return shares, round(shares * part)


def flower(n: int, d: int, dropout: float, *, stronger: bool, seconds: float) -> Flower | None:
    """Run one round; None where it takes longer than ``seconds``."""
    shares, threshold = degree(n, dropout, stronger=stronger)
    numbers = {"n": n, "d": d, "shares": shares, "threshold": threshold, "dropout": dropout}
    arguments = [text for name, value in numbers.items() for text in (f"--{name}", str(value))]
    quiet = {**os.environ, "FLWR_TELEMETRY_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [str(VENV / "bin" / "python"), "-I", str(_SCRIPT), *arguments],
            env=quiet,
            timeout=seconds,
            capture_output=True,
            text=True,
            check=True,
        )
    except subprocess.TimeoutExpired:
        return None
    found = json.loads(done.stdout.splitlines()[-1])
    names = {field.name for field in dataclasses.fields(Flower)} & set(found)
    return Flower(neighbours=shares - 1, threshold=threshold, **{name: found[name] for name in names})
