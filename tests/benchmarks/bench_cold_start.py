"""Cold start and memory of the API process, beside a bare FastAPI process on the same machine.

Run: ``python -m tests.benchmarks.bench_cold_start``. Exits 1 when a bar is missed.
"""

import statistics
import sys
import tempfile
from pathlib import Path

from tests.support.participants import enrol
from tests.support.processes import ORCHARD, free_port, served

_RUNS = 5
_READY_SECONDS, _MEGABYTES = 2.0, 150.0
_BARE = (
    "import fastapi, uvicorn\n"
    "app = fastapi.FastAPI()\n"
    "app.get('/health/ready')(lambda: {'status': 'ready'})\n"
    "uvicorn.run(app, port=%d, log_level='error')\n"
)


def main() -> int:
    """Print the table; return 1 when a bar is missed."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        enrol(folder / "north", folder / "space", name="north", port=port)
        orchard = [str(ORCHARD), "serve", str(folder / "north")]
        found = {
            "orchard serve": _measure(orchard, port, folder),
            "bare FastAPI": _measure([sys.executable, "-c", _BARE % port], port, folder),
        }
    print(f"{'process':16}{'ready (s)':>12}{'CPU (s)':>10}{'resident (MB)':>15}   median of {_RUNS}")
    for title, (seconds, cpu, megabytes) in found.items():
        print(f"{title:16}{seconds:12.2f}{cpu:10.2f}{megabytes:15.0f}")
    seconds, _, megabytes = found["orchard serve"]
    print(f"bars: ready <= {_READY_SECONDS} s, resident < {_MEGABYTES:.0f} MB")
    return int(seconds > _READY_SECONDS or megabytes >= _MEGABYTES)


def _measure(command: list[str], port: int, folder: Path) -> tuple[float, float, float]:
    runs = []
    for _ in range(_RUNS):
        with served(command, f"http://127.0.0.1:{port}", "/health/ready", folder / "log") as running:
            runs.append((running.seconds_to_ready, running.cpu_seconds, running.resident_megabytes))
    seconds, cpu, megabytes = (statistics.median(column) for column in zip(*runs, strict=True))
    return seconds, cpu, megabytes


if __name__ == "__main__":
    sys.exit(main())
