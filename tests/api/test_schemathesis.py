"""Every published route of dsp.json and management.json under schemathesis: what its schema allows, and what it does not."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from sqlalchemy import func, literal, select, union_all

from connector.openapi import split
from connector.storage.database import metadata
from connector.wiring import wire_api
from tests.support.participants import Participant, Space

SECONDS = 2.0
EXAMPLES = 3
# Decisions are logged whatever they are; who is known and what they offer changes in the background.
MOVING = frozenset({"decisions", "peers", "dsp_peer_catalogs", "dsp_peer_catalog_pages", "dsp_peer_catalog_datasets"})


@pytest.fixture(scope="module")
def pair(
    postgresql_server: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Participant, Participant]]:
    """Give two participants, wired as they are served, on the database that refuses more."""
    folder: Path = tmp_path_factory.mktemp("schemathesis")
    space = Space(folder, wire_api)
    yield tuple(space.add(name, port, database_url=postgresql_server()) for name, port in (("n", 18121), ("s", 18122)))
    space.close()


def rows(participant: Participant) -> dict[str, int]:
    """Return how many rows each table has."""
    counts = [
        select(literal(table.name), func.count()).select_from(table)
        for table in metadata.sorted_tables
        if table.name not in MOVING
    ]
    with participant.foundation.database.reading() as connection:
        return {str(row[0]): int(row[1]) for row in connection.execute(union_all(*counts))}


def send(pair: tuple[Participant, Participant], case: Case) -> None:
    """Send a case as a peer or as the operator, and judge the answer."""
    target, sender = pair
    sent = case.as_transport_kwargs()
    headers = {str(name): str(value) for name, value in (sent.pop("headers", None) or {}).items()}
    dsp = case.path.startswith("/dsp")
    headers |= {"Authorization": sender.foundation.issuer.authorization(target.id)} if dsp else target.operator
    for unknown in ("files", "cookies"):
        sent.pop(unknown, None)
    data = sent.pop("data", None)
    before = rows(target)
    clock = time.process_time()
    answer = target.client.request(**sent, content=data, headers=_plain(headers))
    place = f"{case.method} {case.path}"
    # The app shares this process: its processor time is the measure, because machines that test are busy.
    assert time.process_time() - clock < SECONDS, place
    assert answer.status_code < 500, (place, sent, data, answer.text[:300])
    if answer.status_code < 400:
        return
    assert rows(target) == before, (place, "a refused request has written")
    said = answer.json() if answer.content else {}
    if dsp:
        assert said["@type"].endswith("Error"), (place, said)
        assert said["code"], (place, said)
        assert said["reason"], (place, said)
    else:
        assert answer.headers["content-type"].startswith("application/problem+json"), (place, answer.headers)
        assert said["code"], (place, said)


def _plain(headers: dict[str, str]) -> dict[str, str]:
    """Drop header values that no client could send."""
    return {name: value for name, value in headers.items() if value.isascii() and value.isprintable()}


@pytest.mark.parametrize("name", ["dsp", "management"])
def test_no_route_breaks_on_what_its_schema_says_or_forbids(pair: tuple[Participant, Participant], name: str) -> None:
    """Bodies, paths and questions that fit the schema and that do not: never a 5xx, typed errors, nothing written."""
    document = json.loads(split(pair[0].app)[name])
    schema: Any = schemathesis.openapi.from_dict(document)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 15
    for operation in operations:
        if operation.path.endswith("/stream"):
            continue
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def hit(case: Case) -> None:
                send(pair, case)

            # Some routes take nothing that could be wrong.
            with contextlib.suppress(Unsatisfiable):
                hit()
