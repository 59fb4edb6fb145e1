"""A start-up check: the four import packages are this distribution's own.

Their names are plain words. Another distribution that installs a package of the same name overwrites ours without a
word from pip; the process would then run somebody else's code, or half of ours.
"""

from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from importlib.util import find_spec
from pathlib import Path

DISTRIBUTION = "orchard-connector"
PACKAGES = ("connector", "contracts", "learning", "policies")


class PackagingError(Exception):
    """An import name of ours is somebody else's, or the four do not come from one place; the environment is at fault."""

    code = "packaging"


def require_own_packages(installed: Iterable[Distribution] | None = None) -> None:
    """Refuse to run when an import name of ours belongs to another distribution too.

    Args:
        installed: the distributions to look at; those of this environment when not given.

    Raises:
        PackagingError: with the name and the rival.
    """
    places = {_place(name) for name in PACKAGES}
    if len(places) != 1:
        found = ", ".join(sorted(str(place) for place in places))
        raise PackagingError(f"the packages of {DISTRIBUTION} come from different places: {found}; reinstall it")
    for distribution in distributions() if installed is None else installed:
        # The list of installed files, as text: parsing it for every distribution takes a third of a second.
        record = "\n" + (distribution.read_text("RECORD") or "")
        for name in PACKAGES:
            if f"\n{name}/" in record and distribution.name != DISTRIBUTION:
                raise PackagingError(
                    f"the import name '{name}' belongs to {DISTRIBUTION}, but {distribution.name} installs one too: "
                    f"uninstall {distribution.name}, then reinstall {DISTRIBUTION}"
                )


def _place(name: str) -> Path | None:
    spec = find_spec(name)
    return Path(spec.origin).parent.parent if spec is not None and spec.origin is not None else None
