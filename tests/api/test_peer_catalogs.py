"""The crawler: peers' catalogs are read in pages, again only where they changed, and every failure is told."""

import dataclasses
import json
import time

import pytest
from sqlalchemy import func, select

from connector.drivers.wire import MembershipPeers
from connector.storage.database import Database
from connector.storage.peer_catalogs import SqlCatalogShelf, Wanted
from connector.storage.peers import SqlPeerStore
from connector.storage.tables_catalogs import peer_catalog_pages
from contracts.crawl import MAX_PAGES, CatalogCrawl, Pace
from contracts.peer_catalogs import PeerCatalogs, link
from contracts.ports import Peer, PeerAnswer
from tests.support.dataspace import START, Clock, dataset
from tests.support.participants import Participant, Space

PEER = Peer(participant_id="did:web:school", dsp_url="https://school.example/dsp/2025-1")
URL = PEER.dsp_url + "/catalog/request"


class School:
    """A peer of which every answer is in the test's hands."""

    def __init__(self) -> None:
        self.pages: dict[str, list[str]] = {URL: ["a", "b"], URL + "?page=2": ["c"]}
        self.answer: PeerAnswer | None = None
        self.asked: list[tuple[str, str | None]] = []

    def call(self, method, url, *, audience, body=None, headers=None) -> PeerAnswer:
        """Answer as a catalog does."""
        assert (method, audience) == ("POST", PEER.participant_id)
        etag = (headers or {}).get("If-None-Match")
        self.asked.append((url, etag))
        if self.answer is not None:
            return self.answer
        names = self.pages[url]
        tag = f'"{"-".join(names)}"'
        if etag == tag:
            return PeerAnswer(status=304, body=b"")
        following = list(self.pages)[list(self.pages).index(url) + 1 :]
        links = {"link": f'<{following[0]}>; rel="next"'} if following else {}
        documents = [_document(name) for name in names]
        return PeerAnswer(status=200, body=json.dumps({"dataset": documents}).encode(), headers={"etag": tag, **links})


def _document(name: str) -> dict:
    offer = dataclasses.replace(dataset(name).offer, target=None)
    return {
        "@id": f"urn:dataset:{name}",
        "@type": "Dataset",
        "title": f"Title of {name}",
        "hasPolicy": [offer.document()],
        "distribution": [{"@type": "Distribution", "format": f"Format-{name}", "accessService": "urn:s"}],
    }


@pytest.fixture
def shelf(database: Database) -> SqlCatalogShelf:
    """Return a shelf over an empty database, on each kind of database in turn."""
    found = SqlCatalogShelf(database)
    found.note([PEER.participant_id], START)
    return found


def _crawl(shelf: SqlCatalogShelf, school: School, clock: Clock) -> CatalogCrawl:
    numbers = iter(range(1_000_000))
    catalogs = PeerCatalogs(calls=school, ids=lambda: f"urn:uuid:{next(numbers)}")
    return CatalogCrawl(catalogs=catalogs, shelf=shelf, clock=clock, pace=Pace(seconds=300))


def _ids(shelf: SqlCatalogShelf, **wanted) -> list[str]:
    return [one.dataset_id.removeprefix("urn:dataset:") for one in shelf.datasets(Wanted(**wanted))]


def test_a_catalog_is_read_to_its_end_and_only_its_changes_after_that(shelf):
    """The first time everything is sent; later a page that is unchanged is not, and what is gone is dropped."""
    school, clock = School(), Clock()
    crawl = _crawl(shelf, school, clock)
    assert crawl.crawl(PEER)
    assert _ids(shelf) == ["a", "b", "c"]
    status = shelf.status(PEER.participant_id)
    assert (status.pages, status.datasets, status.failures, status.problem) == (2, 3, 0, None)
    assert status.succeeded_at >= status.attempted_at
    assert not crawl.crawl(PEER), "it is not due"
    clock.advance(301)
    school.asked.clear()
    school.pages[URL + "?page=2"] = ["d"]
    assert crawl.crawl(PEER)
    assert school.asked == [(URL, '"a-b"'), (URL + "?page=2", '"c"')]
    assert _ids(shelf) == ["a", "b", "d"]
    clock.advance(301)
    del school.pages[URL + "?page=2"]
    school.pages[URL] = ["a"]
    assert crawl.crawl(PEER)
    assert _ids(shelf) == ["a"]
    assert shelf.status(PEER.participant_id).pages == 1


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (PeerAnswer(status=500, body=b"oops"), "peer-answer", "answered 500"),
        (PeerAnswer(status=401, body=b'{"code": "token-missing", "reason": ["no"]}'), "peer-answer", "token-missing"),
        (PeerAnswer(status=200, body=b"<html>"), "peer-answer", "cannot be read"),
        (PeerAnswer(status=304, body=b""), "peer-answer", "answered 304"),
    ],
)
def test_a_failure_is_told_in_words_and_tried_again_ever_later(shelf, answer, code, words):
    """What was read before stays; each failure in a row doubles the wait, up to the usual interval."""
    school, clock = School(), Clock()
    crawl = _crawl(shelf, school, clock)
    crawl.crawl(PEER)
    school.answer = answer
    if answer.status == 304:
        # Nobody said that we have anything: the school serves a page without a tag first.
        with shelf._database.engine.begin() as connection:
            connection.execute(peer_catalog_pages.update().values(etag=None))
    waits = []
    for _ in range(7):
        clock.advance(301)
        assert crawl.crawl(PEER)
        status = shelf.status(PEER.participant_id)
        waits.append((status.due_at - status.attempted_at).total_seconds())
    assert [round(wait) for wait in waits] == [10, 20, 40, 80, 160, 300, 300]
    assert (status.failures, status.code, status.datasets) == (7, code, 3)
    assert words in status.problem
    assert status.succeeded_at < status.attempted_at
    school.answer = None
    clock.advance(301)
    crawl.crawl(PEER)
    status = shelf.status(PEER.participant_id)
    assert (status.failures, status.code, status.problem) == (0, None, None)


def test_a_crawl_that_breaks_off_keeps_what_it_had(shelf):
    """A page that fails leaves the pages behind it as they were."""
    school, clock = School(), Clock()
    crawl = _crawl(shelf, school, clock)
    crawl.crawl(PEER)
    clock.advance(301)
    school.pages[URL] = ["x"]
    school.pages[URL + "?page=2"] = None  # type: ignore[assignment] # the answer to it is an error of the test's own
    whole = school.call
    school.call = lambda method, url, **more: (  # type: ignore[method-assign]
        whole(method, url, **more) if url == URL else PeerAnswer(status=503, body=b"")
    )
    crawl.crawl(PEER)
    assert _ids(shelf) == ["x", "c"]
    assert "503" in shelf.status(PEER.participant_id).problem


def test_links_that_lead_elsewhere_or_in_a_circle_are_not_followed(shelf):
    """Another host, another path, a page that was read: the catalog ends there, and nobody else is called."""
    school, clock = School(), Clock()
    for target in (
        "https://victim.example/dsp/2025-1/catalog/request",
        URL.replace("catalog", "other"),
        URL,
        "http://[",
    ):
        school.answer = PeerAnswer(status=200, body=b"{}", headers={"link": f'<{target}>; rel="next"'})
        school.asked.clear()
        clock.advance(301)
        assert _crawl(shelf, school, clock).crawl(PEER)
        assert [url for url, _ in school.asked] == [URL]
        assert shelf.status(PEER.participant_id).problem is None


def test_a_catalog_without_end_is_cut(shelf, monkeypatch):
    """A peer that always names a next page is left after so many."""
    monkeypatch.setattr("contracts.crawl.MAX_PAGES", 5)
    school, clock = School(), Clock()
    numbers = iter(range(100))
    school.call = lambda *_, **__: PeerAnswer(  # type: ignore[method-assign]
        status=200, body=b"{}", headers={"link": f'<{URL}?page={next(numbers)}>; rel="next"'}
    )
    assert _crawl(shelf, school, clock).crawl(PEER)
    assert shelf.status(PEER.participant_id).pages == 5
    assert MAX_PAGES * 100 >= 100_000


def test_two_processes_never_read_one_catalog_at_once(shelf):
    """Whoever claims it has it alone until its time is over."""
    clock = Clock()
    now = clock()
    assert shelf.claim(PEER.participant_id, now=now, until=now + Pace().after_success())
    assert shelf.claim(PEER.participant_id, now=clock(), until=clock() + Pace().after_success()) is None


def test_datasets_are_searched_and_paged_in_sql(shelf):
    """By text, format, id and peer; pages in both directions."""
    _crawl(shelf, School(), Clock()).crawl(PEER)
    assert _ids(shelf, text="TITLE OF B") == ["b"]
    assert _ids(shelf, format="Format-c") == ["c"]
    assert _ids(shelf, format="Format") == []
    assert _ids(shelf, dataset_id="urn:dataset:a") == ["a"]
    assert _ids(shelf, participant_id="did:web:nobody") == []
    places = [one.place for one in shelf.datasets(Wanted())]
    assert _ids(shelf, after=places[0], limit=1) == ["b"]
    assert _ids(shelf, before=places[2], limit=1) == ["b"]
    assert _ids(shelf, before=places[2]) == ["a", "b"]


@pytest.mark.parametrize(
    ("header", "relations", "found"),
    [
        ('<?page=2>; rel="next"', ("next",), URL + "?page=2"),
        ("<?page=2>; rel=next", ("next",), URL + "?page=2"),
        ('<?a>; title="x"; rel="prev", <?b>; rel="next"', ("previous", "prev"), URL + "?a"),
        ('<?a>; REL="Next last"', ("next",), URL + "?a"),
        ('<?a>; rel="nextish"', ("next",), None),
        ("<", ("next",), None),
        (None, ("next",), None),
    ],
)
def test_link_headers_are_read_as_their_writers_write_them(header, relations, found):
    """RFC 8288: quotes or none, several relations, several links, any case."""
    assert link(header, URL, relations) == found


@pytest.fixture
def pair(data_space: Space) -> tuple[Participant, Participant]:
    """Give two participants that know each other."""
    first, second = data_space.add("north", 18111), data_space.add("south", 18112, role="ai-provider")
    second.client.post("/management/peers", json={"address": first.settings.server.public_url}, headers=second.operator)
    return first, second


def _published(participant: Participant, count: int) -> None:
    for number in range(count):
        body = {
            "id": f"urn:dataset:{number:03}",
            "title": f"Algebra {number}",
            "keywords": ["algebra"],
            "offer": {"@id": f"urn:offer:{number}", "permission": [{"action": "use"}]},
        }
        assert (
            participant.client.post("/management/datasets", json=body, headers=participant.operator).status_code == 201
        )


def test_an_operator_sees_what_peers_offer_and_how_reading_went(pair):
    """Two real participants: pages, 304 the second time, search with cursors, refresh, a peer that goes away."""
    school, lab = pair
    _published(school, 150)
    refresh = {"participant_id": school.id}
    answer = lab.client.post("/management/catalogs/refresh", json=refresh, headers=lab.operator)
    assert (answer.status_code, answer.json()) == (202, {"refreshing": 1})
    status = _once(lab, school, lambda status: status["datasets"] == 150)
    assert status in lab.client.get("/management/catalogs", headers=lab.operator).json()["catalogs"]
    assert (status["participant_id"], status["pages"], status["datasets"], status["error"]) == (school.id, 2, 150, None)
    with lab.foundation.database.reading() as connection:
        assert connection.execute(select(func.count()).where(peer_catalog_pages.c.etag.is_not(None))).scalar() == 2
    query = "/management/catalog/datasets?text=algebra&limit=60"
    pages, cursor = [], ""
    while True:
        page = lab.client.get(query + cursor, headers=lab.operator).json()
        pages.append([one["dataset_id"] for one in page["datasets"]])
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert [len(one) for one in pages] == [60, 60, 30]
    back = lab.client.get(query + f"&cursor={page['previous']}", headers=lab.operator).json()
    assert [one["dataset_id"] for one in back["datasets"]] == pages[1]
    lab.foundation.client._transport.apps.clear()
    lab.client.post("/management/catalogs/refresh", json=refresh, headers=lab.operator)
    status = _once(lab, school, lambda status: status["failures"])
    assert (status["failures"], status["error_code"], status["datasets"]) == (1, "peer-unavailable", 150)
    assert "is that participant running" in status["error"]


def _once(lab: Participant, school: Participant, seen) -> dict:
    """Return what the lab's own crawler found out, as soon as it has."""
    # The test's client takes percent signs off twice.
    path = f"/management/catalogs/{school.id.replace('%', '%2525')}"
    for _ in range(200):
        status = lab.client.get(path, headers=lab.operator).json()
        if seen(status):
            return status
        time.sleep(0.05)
    raise AssertionError(status)


def test_unknown_catalogs_and_made_up_cursors_are_refused(pair):
    """404 for a participant that is not known, 422 for a cursor that was not handed out."""
    lab = pair[1]
    assert lab.client.get("/management/catalogs/did:web:nobody", headers=lab.operator).status_code == 404
    refresh = lab.client.post(
        "/management/catalogs/refresh", json={"participant_id": "did:web:nobody"}, headers=lab.operator
    )
    assert refresh.status_code == 404
    assert MembershipPeers(SqlPeerStore(lab.foundation.database)).find("did:web:nobody") is None
    for cursor in ("x", "W10", "WyI-IiwgMSwgMiwgM10"):
        answer = lab.client.get(f"/management/catalog/datasets?cursor={cursor}", headers=lab.operator)
        assert (answer.status_code, answer.json()["code"]) == (422, "cursor-unknown")
