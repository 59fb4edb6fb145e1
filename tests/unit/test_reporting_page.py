"""The report's page: whole, readable by everyone, and silent on the network."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest

from connector.reporting.observations import NOTHING, Observations
from connector.reporting.page import render_page
from tests.support.reports import NAMES, Sample, sample

_VOID = {"meta", "link", "br", "img", "input", "hr"}
_FETCHING = {"src", "href", "srcset", "action", "data", "poster", "xlink:href", "background", "formaction"}


class Page(HTMLParser):
    """A page read strictly: elements must close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.elements.append((tag, given))
        self.fetched += [value for name, value in given.items() if name in _FETCHING]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        """Return the attributes of every element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        """The words of the page."""
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def finished() -> Sample:
    """The usual job."""
    return sample()


@pytest.fixture(scope="module")
def page(finished: Sample) -> Page:
    """Its page."""
    return Page(render_page(finished.document, finished.observations))


def test_every_element_is_closed(page: Page) -> None:
    """The page is well formed."""
    assert page.open == []


def test_the_page_fetches_nothing_and_runs_nothing(finished: Sample, page: Page) -> None:
    """No element names an address, no style imports one, no script exists, and a policy forbids all of it."""
    assert page.fetched == []
    text = render_page(finished.document, finished.observations)
    assert not re.search(r"url\(|@import|<script|\son[a-z]+=", text)
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_every_drawing_says_what_it_shows(page: Page) -> None:
    """Each svg is an image with a title and a description, and no id is used twice."""
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    drawings = page.all("svg")
    assert len(drawings) == 6
    for drawing in drawings:
        assert drawing["role"] == "img"
        assert set(drawing["aria-labelledby"].split()) <= set(ids)


def test_every_landmark_has_its_own_name(page: Page) -> None:
    """Sections and scrolling regions can be told apart by ear."""
    regions = [attributes for _, attributes in page.elements if attributes.get("role") == "region"]
    labels = [region["aria-label"] for region in regions]
    assert len(labels) == len(set(labels)) == 7


def test_every_table_has_headers_with_a_scope(page: Page) -> None:
    """A screen reader can name the column and row of each cell."""
    headers = page.all("th")
    assert len(page.all("thead")) == len(page.all("table")) == 9
    assert all(header.get("scope") in {"row", "col"} for header in headers)


def test_the_page_is_for_phones_and_both_colour_schemes(finished: Sample, page: Page) -> None:
    """The page states its viewport, its colour schemes and how it prints."""
    text = render_page(finished.document, finished.observations)
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_the_mishaps_are_told(page: Page) -> None:
    """Withdrawal, refusal, the lost seat, the repeated attempt and the absent provider are in the page's words."""
    for words in (
        "from round 3 on the rows are not read",
        "Institut Sainte-Anne refused the plan",
        "round 12: seat 3 fell silent",
        "attempt 1 given up",
        "missing in round 8",
        "lost in round 12",
    ):
        assert words in page.text


def test_the_final_model_is_measured_after_the_last_round(page: Page, finished: Sample) -> None:
    """The curve ends at 30 rounds behind the model, with the evaluation's value; it starts before any training."""
    final = finished.document["payload"]["final"]["test"]["auc"]
    assert f"goes from 0.502 before training to {final:.3f} after 30 rounds" in page.text


def test_energy_is_called_a_model(page: Page) -> None:
    """Energy is shown as CPU time times stated factors, with a range."""
    assert "Energy, a model" in page.text
    assert "W a core (4 to 20)" in page.text
    assert "no power meter was read" in page.text


def test_without_cards_no_provider_has_a_number(finished: Sample) -> None:
    """No operator added a card: no band, no provider chart, no volume; energy is said to be unknown."""
    page = Page(render_page(finished.document, NOTHING))
    assert "The band spans" not in page.text
    assert "alone and together" not in page.text
    assert not any(f"Data at {name}" in page.text for name in NAMES)
    assert "not known: no CPU time" in page.text


def test_an_unnamed_card_enters_only_the_band(finished: Sample) -> None:
    """A provider whose operator agreed to no name is in the band, and nowhere beside a number."""
    cards = finished.observations.cards
    cards = (*cards[:2], dataclasses.replace(cards[2], named=False))
    page = Page(render_page(finished.document, Observations(cards=cards)))
    assert "lowest to the highest of 3 providers" in page.text
    assert f"Data at {NAMES[2]}" not in page.text
    assert "2 of 2 providers are better off together" in page.text


def test_fewer_than_three_cards_make_no_band(finished: Sample) -> None:
    """A band over two would be the two."""
    page = Page(render_page(finished.document, Observations(cards=finished.observations.cards[:2])))
    assert "The band spans" not in page.text


def test_a_name_cannot_become_markup(finished: Sample) -> None:
    """Peers' names and reasons are text, in the page and in its drawings."""
    text = json.dumps(finished.document).replace("Gesamtschule Nord", "<b onclick=x>N</b>")
    page = Page(render_page(json.loads(text), finished.observations))
    assert page.open == []
    assert not page.all("b")


@pytest.mark.parametrize(("providers", "rounds", "mode"), [(2, 1, "star"), (16, 120, "star"), (25, 3, "clear")])
def test_small_large_and_clear_jobs_have_a_page(providers: int, rounds: int, mode: str) -> None:
    """One round and many, two providers and more than the tree can list, with and without seats."""
    job = sample(providers=providers, rounds=rounds, mode=mode)
    page = Page(render_page(job.document, job.observations))
    assert page.open == []
    assert ("and 7 more" in page.text) == (providers == 25)
    assert ("each provider's update" in page.text.replace("\u2019", "'")) == (mode == "clear")


def test_a_job_without_a_finished_round_has_a_page(finished: Sample) -> None:
    """A report of nothing but aborted attempts says that there is nothing to compare."""
    payload = json.loads(json.dumps(finished.document["payload"]))
    payload["rounds"] = [row for row in payload["rounds"] if row["state"] == "ABORTED"]
    payload["final"] = None
    page = Page(render_page({**finished.document, "payload": payload}))
    assert "No round was completed" in page.text
