"""Peers' catalogs as they were last read (port: ``contracts.crawl.Shelf``), and the questions that operators ask of them."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from connector.storage.contract_rows import maybe_time, micros, time_of
from connector.storage.database import Database, Transaction
from connector.storage.tables_catalogs import peer_catalog_datasets, peer_catalog_pages, peer_catalogs
from contracts.codec import dumps
from contracts.crawl import CatalogStatus, KeptPage
from contracts.peer_catalogs import OfferedDataset

_c, _p, _d = peer_catalogs.c, peer_catalog_pages.c, peer_catalog_datasets.c
_WORDS = 10_000
_PROBLEM = 500
_NAMES = ("title", "description", "keyword", "dct:title", "dct:description", "dcat:keyword")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where a dataset stands among all that peers have shown us: participant, page, place on it."""

    participant_id: str
    page: int
    place: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoundDataset:
    """A dataset of a peer as it was last seen."""

    place: Place
    dataset_id: str
    formats: tuple[str, ...]
    document: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which datasets: ``None`` means any; ``text`` is looked for in what they are called and described as."""

    participant_id: str | None = None
    dataset_id: str | None = None
    format: str | None = None
    text: str | None = None
    after: Place | None = None
    before: Place | None = None
    limit: int = 50


class SqlCatalogShelf:
    """Keeps peers' catalogs in the participant's database."""

    def __init__(self, database: Database) -> None:
        """Keep everything in ``database``."""
        self._database = database

    def note(self, participants: Iterable[str], now: datetime) -> None:
        """Make room for participants that are not known here yet; their catalogs are due at once."""
        insert = postgresql.insert if self._database.engine.dialect.name == "postgresql" else sqlite.insert
        rows = [
            {"participant_id": one, "due_at": micros(now), "failures": 0, "pages": 0, "datasets": 0}
            for one in participants
        ]

        def work(transaction: Transaction) -> None:
            transaction.connection.execute(insert(peer_catalogs).on_conflict_do_nothing(), rows)

        if rows:
            self._database.run("catalogs.note", work)

    def due(self, now: datetime, limit: int = 100) -> list[str]:
        """Return whose catalogs are due, the longest waiting first."""
        statement = select(_c.participant_id).where(_c.due_at <= micros(now)).order_by(_c.due_at).limit(limit)
        with self._database.reading() as connection:
            return list(connection.execute(statement).scalars())

    def hasten(self, participant_id: str | None, now: datetime) -> int:
        """Make one catalog, or all, due now; returns how many there are."""
        statement = update(peer_catalogs).values(due_at=micros(now))
        if participant_id is not None:
            statement = statement.where(_c.participant_id == participant_id)
        return self._database.run("catalogs.hasten", lambda tx: int(tx.connection.execute(statement).rowcount))

    def claim(self, participant_id: str, *, now: datetime, until: datetime) -> CatalogStatus | None:
        """See the port."""
        mine = (
            update(peer_catalogs)
            .where(_c.participant_id == participant_id, _c.due_at <= micros(now))
            .values(due_at=micros(until), attempted_at=micros(now))
        )

        def work(transaction: Transaction) -> CatalogStatus | None:
            if transaction.connection.execute(mine).rowcount != 1:
                return None
            return _status(transaction.connection.execute(_one(participant_id)).one())

        return self._database.run("catalogs.claim", work)

    def hold(self, participant_id: str, *, until: datetime) -> None:
        """See the port."""
        statement = update(peer_catalogs).where(_c.participant_id == participant_id).values(due_at=micros(until))
        self._database.run("catalogs.hold", lambda tx: tx.connection.execute(statement).rowcount)

    def page(self, participant_id: str, number: int) -> KeptPage | None:
        """See the port."""
        statement = select(peer_catalog_pages).where(_p.participant_id == participant_id, _p.page == number)
        with self._database.reading() as connection:
            row = connection.execute(statement).first()
        return KeptPage(url=row.url, etag=row.etag, following=row.following) if row else None

    def keep(self, participant_id: str, number: int, page: KeptPage, datasets: Sequence[OfferedDataset]) -> None:
        """See the port."""
        rows = [_row(participant_id, number, place, one) for place, one in enumerate(datasets)]

        def work(transaction: Transaction) -> None:
            connection = transaction.connection
            for table in (peer_catalog_pages, peer_catalog_datasets):
                connection.execute(
                    delete(table).where(table.c.participant_id == participant_id, table.c.page == number)
                )
            connection.execute(
                peer_catalog_pages.insert(),
                {"participant_id": participant_id, "page": number, **dataclasses.asdict(page)},
            )
            if rows:
                connection.execute(peer_catalog_datasets.insert(), rows)

        self._database.run("catalogs.keep", work)

    def close(self, participant_id: str, *, pages: int, now: datetime, due_at: datetime) -> None:
        """See the port."""

        def work(transaction: Transaction) -> None:
            connection = transaction.connection
            for table in (peer_catalog_pages, peer_catalog_datasets):
                connection.execute(delete(table).where(table.c.participant_id == participant_id, table.c.page >= pages))
            done = {"succeeded_at": micros(now), "due_at": micros(due_at), "failures": 0, "code": None, "problem": None}
            connection.execute(
                update(peer_catalogs)
                .where(_c.participant_id == participant_id)
                .values(**done, **_counted(connection, participant_id))
            )

        self._database.run("catalogs.close", work)

    def fail(self, participant_id: str, *, code: str, problem: str, due_at: datetime) -> None:
        """See the port."""

        def work(transaction: Transaction) -> None:
            connection = transaction.connection
            connection.execute(
                update(peer_catalogs)
                .where(_c.participant_id == participant_id)
                .values(
                    failures=_c.failures + 1,
                    code=code,
                    problem=problem[:_PROBLEM],
                    due_at=micros(due_at),
                    **_counted(connection, participant_id),
                )
            )

        self._database.run("catalogs.fail", work)

    def status(self, participant_id: str) -> CatalogStatus | None:
        """Return how one peer's catalog was last read."""
        with self._database.reading() as connection:
            row = connection.execute(_one(participant_id)).first()
        return _status(row) if row else None

    def statuses(self, after: str, limit: int) -> list[CatalogStatus]:
        """Return how catalogs were last read, by participant id after ``after``."""
        statement = select(peer_catalogs).where(_c.participant_id > after).order_by(_c.participant_id).limit(limit)
        with self._database.reading() as connection:
            return [_status(row) for row in connection.execute(statement)]

    def datasets(self, wanted: Wanted) -> list[FoundDataset]:
        """Return up to ``wanted.limit`` datasets in the order of their places, also when asked backwards."""
        place = tuple_(_d.participant_id, _d.page, _d.place)
        statement = select(peer_catalog_datasets)
        for column, value in ((_d.participant_id, wanted.participant_id), (_d.dataset_id, wanted.dataset_id)):
            if value is not None:
                statement = statement.where(column == value)
        if wanted.format is not None:
            statement = statement.where(_d.formats.contains(f"\n{wanted.format}\n", autoescape=True))
        if wanted.text is not None:
            statement = statement.where(_d.words.contains(wanted.text.lower(), autoescape=True))
        if wanted.after is not None:
            statement = statement.where(place > dataclasses.astuple(wanted.after))
        if wanted.before is not None:
            statement = statement.where(place < dataclasses.astuple(wanted.before))
        order = [_d.participant_id, _d.page, _d.place]
        backwards = wanted.before is not None
        statement = statement.order_by(*(column.desc() for column in order) if backwards else order)
        with self._database.reading() as connection:
            rows = connection.execute(statement.limit(wanted.limit)).all()
        return [_found(row) for row in (reversed(rows) if backwards else rows)]


def _one(participant_id: str) -> Any:
    return select(peer_catalogs).where(_c.participant_id == participant_id)


def _counted(connection: Connection, participant_id: str) -> dict[str, int]:
    counts = {
        name: connection.execute(
            select(func.count()).select_from(table).where(table.c.participant_id == participant_id)
        ).scalar_one()
        for name, table in (("pages", peer_catalog_pages), ("datasets", peer_catalog_datasets))
    }
    return {name: int(count) for name, count in counts.items()}


def _row(participant_id: str, page: int, place: int, dataset: OfferedDataset) -> dict[str, Any]:
    said = (dataset.document.get(name) for name in _NAMES)
    words = (word for value in said for word in (value if isinstance(value, list) else [value]))
    return {
        "participant_id": participant_id,
        "page": page,
        "place": place,
        "dataset_id": dataset.id,
        "formats": "".join(f"\n{name}" for name in dataset.formats) + "\n",
        "words": "\n".join([dataset.id, *(word for word in words if isinstance(word, str))]).lower()[:_WORDS],
        "body": dumps(dataset.document),
    }


def _found(row: Any) -> FoundDataset:
    return FoundDataset(
        place=Place(participant_id=row.participant_id, page=row.page, place=row.place),
        dataset_id=row.dataset_id,
        formats=tuple(row.formats.strip("\n").splitlines()),
        document=json.loads(row.body),
    )


def _status(row: Any) -> CatalogStatus:
    return CatalogStatus(
        participant_id=row.participant_id,
        due_at=time_of(row.due_at),
        attempted_at=maybe_time(row.attempted_at),
        succeeded_at=maybe_time(row.succeeded_at),
        failures=row.failures,
        code=row.code,
        problem=row.problem,
        pages=row.pages,
        datasets=row.datasets,
    )
