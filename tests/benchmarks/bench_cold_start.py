"""Cold start and memory of the API process, beside a bare FastAPI process on the same machine.

Run: ``python -m tests.benchmarks.bench_cold_start``. Exits 3 when a bar is missed.
"""

import statistics
import sys
import tempfile
import urllib.request
from pathlib import Path

from tests.benchmarks import MISSED_BAR
from tests.support.participants import enrol
from tests.support.processes import ORCHARD, Served, free_port, served

_RUNS, _REQUESTS = 5, 100
_READY_SECONDS, _MEGABYTES = 2.0, 150.0
_BARE = (
    "import fastapi, uvicorn\n"
    "app = fastapi.FastAPI()\n"
    "app.get('/health/ready')(lambda: {'status': 'ready'})\n"
    "uvicorn.run(app, port=%d, log_level='error')\n"
)


def main() -> int:
    """Print the table; return 3 when a bar is missed."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        enrol(folder / "north", folder / "space", name="north", port=port)
        orchard = [str(ORCHARD), "serve", str(folder / "north")]
        found = {
            "orchard serve": _measure(orchard, port, folder),
            "bare FastAPI": _measure([sys.executable, "-c", _BARE % port], port, folder),
        }
    print(f"median of {_RUNS}      ready       CPU     resident, MB:")
    print(f"{'process':16}{'s':>6}{'s':>10}{'at start':>13}{f'after {_REQUESTS} requests':>22}")
    for title, (seconds, cpu, start, later) in found.items():
        print(f"{title:16}{seconds:6.2f}{cpu:10.2f}{start:13.0f}{later:22.0f}")
    seconds, _, _, megabytes = found["orchard serve"]
    print(f"bars: ready <= {_READY_SECONDS} s, resident < {_MEGABYTES:.0f} MB, no torch")
    return MISSED_BAR * (seconds > _READY_SECONDS or megabytes >= _MEGABYTES)


def _measure(command: list[str], port: int, folder: Path) -> tuple[float, float, float, float]:
    runs = []
    for _ in range(_RUNS):
        with served(command, f"http://127.0.0.1:{port}", "/health/ready", folder / "log") as running:
            fresh = (running.seconds_to_ready, running.cpu_seconds, running.resident_megabytes)
            runs.append((*fresh, _after_requests(running)))
    ready, cpu, start, later = (statistics.median(column) for column in zip(*runs, strict=True))
    return ready, cpu, start, later


def _after_requests(running: Served) -> float:
    """Return the megabytes resident after some requests; a process that loaded torch is an error."""
    for _ in range(_REQUESTS):
        with urllib.request.urlopen(running.url + "/health/ready", timeout=5) as answer:  # noqa: S310 - loopback
            answer.read()
    if "libtorch" in Path(f"/proc/{running.process.pid}/maps").read_text():
        raise AssertionError("the API process has loaded torch")
    return running.resident_megabytes


if __name__ == "__main__":
    sys.exit(main())
