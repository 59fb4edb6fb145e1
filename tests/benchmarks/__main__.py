"""Run every ``bench_*.py`` here, or those named: ``python -m tests.benchmarks [cold_start ...]``; 1 if a bar is missed."""

import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Run each benchmark in a process of its own and return 1 when any missed a bar or failed."""
    known = sorted(file.stem.removeprefix("bench_") for file in Path(__file__).parent.glob("bench_*.py"))
    wanted = sys.argv[1:] or known
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        print(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    missed = []
    for name in wanted:
        print(f"\n== {name} ==", flush=True)
        if subprocess.run([sys.executable, "-m", f"tests.benchmarks.bench_{name}"], check=False).returncode:
            missed.append(name)
    print(f"\n{'missed: ' + ', '.join(missed) if missed else 'every bar is met'}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
