"""The catalog's part of the contracts room's store: one suite for SQLite and PostgreSQL."""

import dataclasses

import pytest

from connector.storage.contracts import ContractStore
from connector.storage.database import Database
from contracts.ports import CatalogQuery
from tests.support.dataspace import MARKETING, START, dataset


@pytest.fixture
def store(database: Database) -> ContractStore:
    """Return a store over an empty, migrated database."""
    return ContractStore(database)


def test_the_catalog_is_filtered_and_paged_in_both_directions(store):
    """Keyword, format and text narrow; after and before cut pages in id order."""
    for number in range(6):
        published = dataset(f"d{number}", formats=("FederatedTraining",) if number % 2 else ("HttpData-PULL",))
        store.run("test", lambda uow, d=published: uow.put_dataset(d, now=START))
    ids = lambda **query: [d.id.removeprefix("urn:dataset:") for d in store.datasets(CatalogQuery(**query))]  # noqa: E731
    assert ids() == ["d0", "d1", "d2", "d3", "d4", "d5"]
    assert ids(format="HttpData-PULL") == ["d0", "d2", "d4"]
    assert ids(keyword="d3") == ["d3"]
    assert ids(text="RESPONSES IN D4") == ["d4"]
    assert ids(text="100%") == []
    assert ids(after="urn:dataset:d1", limit=2) == ["d2", "d3"]
    assert ids(before="urn:dataset:d4", limit=2) == ["d2", "d3"]
    assert ids(keyword="knowledge tracing", format="FederatedTraining", after="urn:dataset:d1") == ["d3", "d5"]


def test_many_datasets_are_published_in_one_transaction(store):
    """A publication of hundreds is all there, each with its terms."""
    published = [dataset(f"d{number:03}") for number in range(300)]

    def work(uow):
        for one in published:
            uow.put_dataset(one, now=START)

    store.run("test", work)
    assert list(store.datasets(CatalogQuery(limit=1000))) == published
    assert list(store.datasets(CatalogQuery(keyword="d250"))) == [published[250]]


def test_a_dataset_is_replaced_with_its_terms_and_removed(store):
    """Publishing again replaces everything; withdrawing leaves nothing behind."""
    store.run("test", lambda uow: uow.put_dataset(dataset(), now=START))
    assert store.dataset(dataset().id) == dataset()
    changed = dataclasses.replace(dataset(purpose=MARKETING), keywords=("new",), properties={"x": [1, {"y": 2}]})
    store.run("test", lambda uow: uow.put_dataset(changed, now=START))
    assert store.dataset(dataset().id) == changed
    assert store.datasets(CatalogQuery(keyword="algebra")) == []
    assert store.run("test", lambda uow: uow.remove_dataset(dataset().id)) is True
    assert store.run("test", lambda uow: uow.remove_dataset(dataset().id)) is False
    assert store.datasets(CatalogQuery()) == []
