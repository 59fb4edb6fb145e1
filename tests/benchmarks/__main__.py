"""Run every ``bench_*.py`` here, or those named: ``python -m tests.benchmarks [cold_start ...]``.

A missed bar is said and does not fail the run, for a busy machine misses bars; 1 when a benchmark broke.
"""

import subprocess
import sys
from pathlib import Path

from tests.benchmarks import MISSED_BAR


def main() -> int:
    """Run each benchmark in a process of its own and return 1 when any broke."""
    known = sorted(file.stem.removeprefix("bench_") for file in Path(__file__).parent.glob("bench_*.py"))
    wanted = sys.argv[1:] or known
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        print(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    missed: list[str] = []
    broken: list[str] = []
    for name in wanted:
        print(f"\n== {name} ==", flush=True)
        status = subprocess.run([sys.executable, "-m", f"tests.benchmarks.bench_{name}"], check=False).returncode
        if status:
            (missed if status == MISSED_BAR else broken).append(name)
    print(f"\n{'bars missed: ' + ', '.join(missed) if missed else 'no bar is missed'}")
    if broken:
        print(f"broken: {', '.join(broken)}", file=sys.stderr)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
