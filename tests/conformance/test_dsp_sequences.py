"""The DSP kit's sequences in seconds instead of minutes: every exchange it has, against the same connector under test.

Source: the sequence diagrams of the kit's 67 tests (two are switched off there; we hold them too). ``make tck`` is the
proof; this is what says within seconds of a change which sequence it broke.
"""

from collections.abc import Iterator

import pytest

from connector.drivers.wire import DSP_PATH
from connector.storage.database import Database
from connector.storage.migrate import upgrade
from contracts.shapes import CONTEXT
from tests.conformance.dsp import seed
from tests.conformance.scripted_kit import Bench, ScriptedKit, Sequence

# One line per test of the kit; the words are those of ScriptedKit.play.
_SEQUENCES = """
CN:01-01    send request REQUESTED; comes offer OFFERED; send termination TERMINATED
CN:01-02    send request REQUESTED; comes offer OFFERED; send request REQUESTED; comes termination TERMINATED
CN:01-03    send request REQUESTED; comes offer OFFERED; send accepted ACCEPTED; comes agreement AGREED; \
send verification VERIFIED; comes finalized FINALIZED
CN:01-04    send request REQUESTED; comes agreement AGREED; send verification VERIFIED; comes finalized FINALIZED
CN:02-01    send request REQUESTED; comes termination TERMINATED
CN:02-02    send request REQUESTED; send termination TERMINATED
CN:02-03    send request REQUESTED; comes agreement AGREED; send termination TERMINATED
CN:02-04    send request REQUESTED; comes offer OFFERED; send termination TERMINATED
CN:02-05    send request REQUESTED; comes offer OFFERED; comes termination TERMINATED
CN:02-06    send request REQUESTED; comes offer OFFERED; send accepted ACCEPTED; comes termination TERMINATED
CN:02-07    send request REQUESTED; comes agreement AGREED; send verification VERIFIED; comes termination TERMINATED
CN:03-01    send request REQUESTED; comes agreement AGREED; send verification VERIFIED; comes finalized FINALIZED; \
refused termination FINALIZED
CN:03-02    send request REQUESTED; comes offer OFFERED; refused verification OFFERED
CN:03-03    send request REQUESTED; comes offer OFFERED; send accepted ACCEPTED; refused verification ACCEPTED
CN:03-04    send request REQUESTED; comes offer OFFERED; send request REQUESTED; refused request REQUESTED
CN_C:01-01  begin; send offer OFFERED; comes accepted ACCEPTED; send agreement AGREED; comes verification VERIFIED; \
send finalized FINALIZED
CN_C:01-02  begin; send offer OFFERED; comes request REQUESTED; send termination TERMINATED
CN_C:01-03  begin; send offer OFFERED; comes termination TERMINATED
CN_C:01-04  begin; send agreement AGREED; comes verification VERIFIED; send finalized FINALIZED
CN_C:02-01  begin; send termination TERMINATED
CN_C:02-02  begin; comes termination TERMINATED
CN_C:02-03  begin; send agreement AGREED; comes termination TERMINATED
CN_C:02-04  begin; send offer OFFERED; send termination TERMINATED
CN_C:02-05  begin; send offer OFFERED; comes accepted ACCEPTED; send termination TERMINATED
CN_C:02-06  begin; send agreement AGREED; comes verification VERIFIED; send termination TERMINATED
CN_C:03-01  begin; refused finalized REQUESTED
CN_C:03-02  begin; send offer OFFERED; refused agreement OFFERED
CN_C:03-03  begin; send offer OFFERED; refused finalized OFFERED
CN_C:03-04  begin; send offer OFFERED; comes accepted ACCEPTED; refused finalized ACCEPTED
CN_C:03-05  begin; send offer OFFERED; comes accepted ACCEPTED; refused offer ACCEPTED
CN_C:03-06  begin; send offer OFFERED; comes accepted ACCEPTED; send agreement AGREED; refused finalized AGREED
TP:01-01    send request REQUESTED; comes start STARTED; comes termination TERMINATED
TP:01-02    send request REQUESTED; comes start STARTED; comes completion COMPLETED
TP:01-03    send request REQUESTED; comes start STARTED; comes suspension SUSPENDED; comes termination TERMINATED
TP:01-04    send request REQUESTED; comes start STARTED; comes suspension SUSPENDED; comes start STARTED; \
comes completion COMPLETED
TP:01-05    send request REQUESTED; comes termination TERMINATED
TP:02-01    send request REQUESTED; comes start STARTED; send termination TERMINATED
TP:02-02    send request REQUESTED; comes start STARTED; send completion COMPLETED
TP:02-03    send request REQUESTED; comes start STARTED; send suspension SUSPENDED; send termination TERMINATED
TP:02-05    send request REQUESTED; send termination TERMINATED
TP:03-01    send request REQUESTED; refused completion REQUESTED
TP:03-02    send request REQUESTED; refused suspension REQUESTED
TP:03-03    send request REQUESTED; comes start STARTED; send suspension SUSPENDED; refused completion SUSPENDED
TP:03-04    send request REQUESTED; comes start STARTED; send termination TERMINATED; refused start TERMINATED
TP:03-05    send request REQUESTED; comes start STARTED; send termination TERMINATED; refused suspension TERMINATED
TP:03-06    send request REQUESTED; comes start STARTED; send termination TERMINATED; refused completion TERMINATED
TP_C:01-01  begin; send start STARTED; send termination TERMINATED
TP_C:01-02  begin; send start STARTED; send completion COMPLETED
TP_C:01-03  begin; send start STARTED; send suspension SUSPENDED; send termination TERMINATED
TP_C:01-04  begin; send start STARTED; send suspension SUSPENDED; send start STARTED; send completion COMPLETED
TP_C:01-05  begin; send termination TERMINATED
TP_C:02-01  begin; send start STARTED; comes termination TERMINATED
TP_C:02-02  begin; send start STARTED; comes completion COMPLETED
TP_C:02-03  begin; send start STARTED; comes suspension SUSPENDED; comes termination TERMINATED
TP_C:02-05  begin; comes termination TERMINATED
TP_C:03-01  begin; refused completion REQUESTED
TP_C:03-02  begin; refused suspension REQUESTED
TP_C:03-03  begin; send start STARTED; send suspension SUSPENDED; refused completion SUSPENDED
TP_C:03-04  begin; send start STARTED; send termination TERMINATED; refused start TERMINATED
TP_C:03-05  begin; send start STARTED; send termination TERMINATED; refused suspension TERMINATED
TP_C:03-06  begin; send start STARTED; send termination TERMINATED; refused completion TERMINATED
"""

# Switched off in the kit; nothing in the protocol is against them.
_SWITCHED_OFF = """
TP:02-04    send request REQUESTED; comes start STARTED; send suspension SUSPENDED; send start STARTED; \
send completion COMPLETED
TP_C:02-04  begin; send start STARTED; comes suspension SUSPENDED; comes start STARTED; comes completion COMPLETED
"""


def _read(text: str) -> list[Sequence]:
    lines = (line.split(maxsplit=1) for line in text.strip().splitlines())
    return [Sequence(name=name, script=script) for name, script in lines]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Give the connector under test, one for all sequences as with the kit, on each database in turn."""
    folder = tmp_path_factory.mktemp("bench")
    url = f"sqlite:///{folder / 'orchard.sqlite'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql_server")()
    upgrade(url)
    database = Database(url)
    made = Bench(folder, database)
    # Entered, the client keeps one event loop for all its requests.
    with made.client:
        yield made
    database.close()


@pytest.mark.parametrize(
    "sequence", [*_read(_SEQUENCES), *_read(_SWITCHED_OFF)], ids=lambda sequence: str(sequence.name)
)
def test_a_sequence_of_the_kit_runs_to_its_end(bench, sequence):
    """Each message is taken, answered, sent or refused as the kit wants it, and nothing else is said or changed."""
    bench.inbox.clear()
    ScriptedKit(bench, sequence).play()


def test_every_sequence_that_the_kit_runs_is_here():
    """Its 65: one of metadata and three of the catalog below, and 61 exchanges in the numbers the kit has."""
    groups = [sequence.name.partition("-")[0] for sequence in _read(_SEQUENCES)]
    assert {group: groups.count(group) for group in groups} == {
        "CN:01": 4,
        "CN:02": 7,
        "CN:03": 4,
        "CN_C:01": 4,
        "CN_C:02": 6,
        "CN_C:03": 6,
        "TP:01": 5,
        "TP:02": 4,
        "TP:03": 6,
        "TP_C:01": 5,
        "TP_C:02": 4,
        "TP_C:03": 6,
    }
    assert len(groups) == 65 - 1 - 3


def test_met_01_01_the_versions_are_published(bench):
    """MET:01-01: the metadata names our version, where it is and its binding, without authentication."""
    answer = bench.client.get("/.well-known/dspace-version", headers={"Authorization": ""})
    (entry,) = answer.json()["protocolVersions"]
    assert answer.status_code == 200
    assert (entry["version"], entry["path"], entry["binding"]) == ("2025-1", DSP_PATH, "HTTPS")


def test_cat_01_01_the_catalog_holds_the_dataset(bench):
    """CAT:01-01: the dataset is on the first page, with an offer without target and a distribution."""
    request = {"@context": [CONTEXT], "@id": "urn:kit:1", "@type": "CatalogRequestMessage", "filter": []}
    answer = bench.client.post(f"{DSP_PATH}/catalog/request", json=request)
    assert answer.status_code == 200
    catalog = answer.json()
    assert (catalog["@type"], catalog["participantId"]) == ("Catalog", bench.service.participant.id)
    (found,) = [entry for entry in catalog["dataset"] if entry["@id"] == f"CAT{seed.CATALOG[0]}"]
    assert "target" not in found["hasPolicy"][0]
    assert found["distribution"][0]["format"] == seed.FORMAT


def test_cat_01_02_a_dataset_is_read_by_its_id(bench):
    """CAT:01-02: one dataset, with the protocol's context."""
    answer = bench.client.get(f"{DSP_PATH}/catalog/datasets/CAT{seed.CATALOG[1]}")
    assert answer.status_code == 200
    assert (answer.json()["@id"], answer.json()["@type"]) == (f"CAT{seed.CATALOG[1]}", "Dataset")
    assert answer.json()["@context"] == [CONTEXT]


def test_cat_01_03_a_dataset_that_is_not_there_is_a_catalog_error(bench):
    """CAT:01-03: 404 with the protocol's own error body."""
    answer = bench.client.get(f"{DSP_PATH}/catalog/datasets/CAT{seed.ABSENT}")
    assert answer.status_code == 404
    assert answer.json()["@type"] == "CatalogError"
    assert answer.json()["code"]
    assert answer.json()["reason"]
