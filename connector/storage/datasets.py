"""The catalog's tables: filtered and paged in SQL, each page's policies in the same statement."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, bindparam, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from connector.storage.contract_rows import micros
from connector.storage.direct import Direct
from connector.storage.statements import Statement
from connector.storage.tables_contracts import dataset_terms, datasets, policies
from contracts.codec import dumps
from contracts.messages import Offer
from contracts.ports import CatalogQuery
from contracts.processes import Dataset
from policies.canonical import digest


def catalog_page(connection: Connection, query: CatalogQuery) -> Sequence[Dataset]:
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


class DatasetStatements:
    """What reads and writes one dataset, for one database: a publication is a few statements per dataset."""

    def __init__(self, way: Direct) -> None:
        """Compile the statements."""
        insert: Any = postgresql.insert if way.dialect.name == "postgresql" else sqlite.insert
        self._read = Statement(_with_policy().where(datasets.c.id == bindparam("of_id")), way)
        self._add_policy = Statement(
            insert(policies).on_conflict_do_nothing(), way, columns=[column.name for column in policies.columns]
        )
        columns = [column.name for column in datasets.columns]
        wanted = insert(datasets)
        wanted = wanted.on_conflict_do_update(
            index_elements=["id"], set_={name: wanted.excluded[name] for name in columns}
        )
        self._put = Statement(wanted, way, columns=columns)
        self._drop_terms = Statement(delete(dataset_terms).where(dataset_terms.c.dataset_id == bindparam("of_id")), way)
        self._add_term = Statement(
            dataset_terms.insert(), way, columns=[column.name for column in dataset_terms.columns]
        )
        self._drop = Statement(delete(datasets).where(datasets.c.id == bindparam("of_id")), way)

    def read(self, connection: Connection, dataset_id: str) -> Dataset | None:
        """Return a dataset with its policy."""
        row = self._read.run(connection, of_id=dataset_id).first()
        return _dataset(row, {}) if row else None

    def put(self, connection: Connection, dataset: Dataset, now: datetime) -> None:
        """Insert or replace a dataset, its terms and its policy."""
        rules = {kind: list(entries) for kind, entries in dataset.offer.rules.items()}
        name = digest(rules)
        self._add_policy.later(connection, digest=name, body=dumps(rules))
        self._put.later(
            connection,
            id=dataset.id,
            title=dataset.title,
            offer_id=dataset.offer.id,
            policy_digest=name,
            body=dumps(_body(dataset)),
            words="\n".join([dataset.title, dataset.description, *dataset.keywords]).lower(),
            updated_at=micros(now),
        )
        self._drop_terms.later(connection, of_id=dataset.id)
        terms = {("keyword", word) for word in dataset.keywords} | {("format", name) for name in dataset.formats}
        for kind, value in sorted(terms):
            self._add_term.later(connection, kind=kind, value=value, dataset_id=dataset.id)

    def remove(self, connection: Connection, dataset_id: str) -> bool:
        """Delete a dataset; returns whether it was there."""
        self._drop_terms.later(connection, of_id=dataset_id)
        return self._drop.run(connection, of_id=dataset_id).rowcount == 1


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
