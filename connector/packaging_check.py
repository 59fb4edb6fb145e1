"""A start-up check: the four import packages are this distribution's own.

Their names are plain words. Another distribution that installs a package of the same name overwrites ours without a
word from pip; the process would then run somebody else's code, or half of ours.
"""

import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

DISTRIBUTION = "orchard-connector"
PACKAGES = ("connector", "contracts", "learning", "policies")


class PackagingError(Exception):
    """An import name of ours is somebody else's, or the four do not come from one place; the environment is at fault."""

    code = "packaging"


def require_own_packages(folders: Iterable[Path] | None = None) -> None:
    """Refuse to run when an import name of ours belongs to another distribution too.

    Args:
        folders: where distributions are installed; the import path when not given.

    Raises:
        PackagingError: with the name and the rival.
    """
    places = {_place(name) for name in PACKAGES}
    if len(places) != 1:
        found = ", ".join(sorted(str(place) for place in places))
        raise PackagingError(f"the packages of {DISTRIBUTION} come from different places: {found}; reinstall it")
    for folder in map(Path, sys.path) if folders is None else folders:
        # The lists of installed files as bytes: importlib.metadata needs a third of a second to parse them all.
        for record in folder.glob("*.dist-info/RECORD"):
            _check(record)


def _check(record: Path) -> None:
    # "name-version.dist-info", the name with underscores (binary distribution format, "The .dist-info directory").
    owner = record.parent.name.partition("-")[0].replace("_", "-").lower()
    if owner == DISTRIBUTION:
        return
    text = b"\n" + record.read_bytes()
    for name in PACKAGES:
        if b"\n%s/" % name.encode() in text:
            raise PackagingError(
                f"the import name '{name}' belongs to {DISTRIBUTION}, but {owner} installs one too: "
                f"uninstall {owner}, then reinstall {DISTRIBUTION}"
            )


def _place(name: str) -> Path | None:
    spec = find_spec(name)
    return Path(spec.origin).parent.parent if spec is not None and spec.origin is not None else None
