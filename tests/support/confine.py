"""Runs a command that cannot read what lies below the hidden folders: the kernel (Landlock) refuses, whoever asks.

Usage: ``python -m tests.support.confine HIDDEN [HIDDEN ...] -- COMMAND [ARGUMENT ...]``. Everything that exists outside
the hidden folders when the command starts can be read as before; children inherit the restriction.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from connector.sandbox.kernel import landlock_restrict, landlock_version, no_new_privileges

_READ_FILE, _REFER = 1 << 2, 1 << 13
_RULESET_BYTES = 8


def visible(hidden: Iterable[Path]) -> Iterator[Path]:
    """Yield the topmost files and folders that hold none of the hidden ones."""
    closed = {path.resolve() for path in hidden}
    above = {parent for path in closed for parent in path.parents}
    for folder in sorted(above):
        for child in sorted(folder.iterdir()):
            if child not in above and child not in closed and not child.is_symlink():
                yield child


def confine(hidden: Iterable[Path]) -> None:
    """Give up reading files below the hidden folders, for good."""
    if landlock_version() < 2:
        raise OSError("this kernel has no Landlock of version 2")
    descriptors = []
    for path in visible(hidden):
        # Whatever went away between the listing and now needs no permission.
        try:
            descriptors.append((os.open(path, os.O_PATH | os.O_CLOEXEC), path.is_dir()))
        except FileNotFoundError:
            continue
    # Without the right to refer, no file could be linked or moved between folders any more.
    rules = [(descriptor, _READ_FILE | _REFER if folder else _READ_FILE) for descriptor, folder in descriptors]
    no_new_privileges()
    landlock_restrict(fs=_READ_FILE | _REFER, net=0, scoped=0, size=_RULESET_BYTES, paths=rules)
    for descriptor, _ in descriptors:
        os.close(descriptor)


def command(hidden: Iterable[Path], wanted: list[str]) -> list[str]:
    """Return ``wanted`` as a command that runs confined."""
    return [sys.executable, "-m", "tests.support.confine", *map(str, hidden), "--", *wanted]


def main(arguments: list[str]) -> None:
    """Confine this process and become the command."""
    split = arguments.index("--")
    confine([Path(argument) for argument in arguments[:split]])
    os.execv(arguments[split + 1], arguments[split + 1 :])  # noqa: S606 - the test's own command


if __name__ == "__main__":
    main(sys.argv[1:])
