"""One running data space for every end-to-end test that does not need one of its own."""

from collections.abc import Iterator

import pytest

from connector.demo.participants import Place
from connector.demo.stage import Stage
from tests.support.confine import command
from tests.support.stage import Space, source, space


def only_ones_own(stage: Stage, place: Place, kind: str, plain: list[str]) -> list[str]:
    """Hide every school's source from a process, but a school's own source from its worker."""
    hidden = [
        source(stage, school).parent for school in stage.schools if (kind, school.place.slug) != ("worker", place.slug)
    ]
    return command(hidden, plain)


@pytest.fixture(scope="session")
def schools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """Run one AI provider and three schools: behind relays, and with sources that only their own workers can open."""
    with space(tmp_path_factory.mktemp("s"), relayed=True, confined=only_ones_own) as running:
        yield running
