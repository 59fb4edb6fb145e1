"""The catalog's tables: filtered and paged in SQL, each page's policies in the same statement."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, bindparam, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from connector.storage.contract_rows import micros
from connector.storage.tables_contracts import dataset_terms, datasets, policies
from contracts.codec import dumps
from contracts.messages import Offer
from contracts.ports import CatalogQuery
from contracts.processes import Dataset
from policies.canonical import digest


def one() -> "Select[Any]":
    """Return the statement that reads the dataset ``of_id``."""
    return _with_policy().where(datasets.c.id == bindparam("of_id"))


def dataset_of(row: Any) -> Dataset:
    """Return the dataset in a row of :func:`one`."""
    return _dataset(row, {})


def page(connection: Connection, query: CatalogQuery) -> Sequence[Dataset]:
    """Return the datasets of a page in id order."""
    statement = _with_policy()
    for kind, value in (("keyword", query.keyword), ("format", query.format)):
        if value is not None:
            term = dataset_terms.alias(kind)
            statement = statement.join(term, term.c.dataset_id == datasets.c.id).where(
                term.c.kind == kind, term.c.value == value
            )
    if query.text is not None:
        statement = statement.where(datasets.c.words.contains(query.text.lower(), autoescape=True))
    if query.after is not None:
        statement = statement.where(datasets.c.id > query.after)
    if query.before is not None:
        statement = statement.where(datasets.c.id < query.before)
    backwards = query.before is not None
    order = datasets.c.id.desc() if backwards else datasets.c.id
    rows = connection.execute(statement.order_by(order).limit(query.limit)).all()
    rules: dict[str, Any] = {}
    return [_dataset(row, rules) for row in (reversed(rows) if backwards else rows)]


def put(connection: Connection, dataset: Dataset, now: datetime) -> None:
    """Insert or replace a dataset, its terms and its policy."""
    insert: Any = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    rules = {kind: list(entries) for kind, entries in dataset.offer.rules.items()}
    name = digest(rules)
    connection.execute(insert(policies).values(digest=name, body=dumps(rules)).on_conflict_do_nothing())
    row = {
        "id": dataset.id,
        "title": dataset.title,
        "offer_id": dataset.offer.id,
        "policy_digest": name,
        "body": dumps(_body(dataset)),
        "words": "\n".join([dataset.title, dataset.description, *dataset.keywords]).lower(),
        "updated_at": micros(now),
    }
    wanted = insert(datasets).values(row)
    connection.execute(wanted.on_conflict_do_update(index_elements=["id"], set_={k: wanted.excluded[k] for k in row}))
    connection.execute(delete(dataset_terms).where(dataset_terms.c.dataset_id == dataset.id))
    terms = {("keyword", word) for word in dataset.keywords} | {("format", name) for name in dataset.formats}
    if terms:
        rows = [{"kind": kind, "value": value, "dataset_id": dataset.id} for kind, value in sorted(terms)]
        connection.execute(dataset_terms.insert(), rows)


def remove(connection: Connection, dataset_id: str) -> bool:
    """Delete a dataset; returns whether it was there."""
    connection.execute(delete(dataset_terms).where(dataset_terms.c.dataset_id == dataset_id))
    return connection.execute(delete(datasets).where(datasets.c.id == dataset_id)).rowcount == 1


def _with_policy() -> "Select[Any]":
    columns = (datasets.c.id, datasets.c.title, datasets.c.offer_id, datasets.c.policy_digest, datasets.c.body)
    return select(*columns, policies.c.body.label("rules")).join(
        policies, policies.c.digest == datasets.c.policy_digest
    )


def _body(dataset: Dataset) -> dict[str, Any]:
    offer = dataset.offer
    return {
        "description": dataset.description,
        "keywords": list(dataset.keywords),
        "formats": list(dataset.formats),
        "properties": dict(dataset.properties),
        "assigner": offer.assigner,
        "assignee": offer.assignee,
    }


def _dataset(row: Any, known: dict[str, Any]) -> Dataset:
    body: Mapping[str, Any] = json.loads(row.body)
    if row.policy_digest not in known:
        known[row.policy_digest] = json.loads(row.rules)
    return Dataset(
        id=row.id,
        title=row.title,
        description=body["description"],
        keywords=tuple(body["keywords"]),
        formats=tuple(body["formats"]),
        properties=body["properties"],
        offer=Offer(
            id=row.offer_id,
            rules=known[row.policy_digest],
            target=row.id,
            assigner=body["assigner"],
            assignee=body["assignee"],
        ),
    )
