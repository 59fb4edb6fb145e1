"""Tables of the learning room. A record's key columns are its key; ``value`` holds the whole record as JSON."""

from sqlalchemy import JSON, Column, Float, Index, Integer, String, Table, Text

from connector.storage.database import metadata

_ID = String(255)


def _records(name: str, *key: Column[object]) -> Table:
    state = Column("state", String(32), nullable=True)
    return Table(name, metadata, *key, state, Column("value", JSON, nullable=False))


def _job() -> Column[object]:
    return Column("job_id", _ID, primary_key=True)


def _round() -> list[Column[object]]:
    return [
        _job(),
        Column("round", Integer, primary_key=True, autoincrement=False),
        Column("attempt", Integer, primary_key=True, autoincrement=False),
    ]


def _group() -> Column[object]:
    return Column("group", String(255), primary_key=True)


def _digest(name: str) -> Column[object]:
    return Column(name, String(64), primary_key=True)


def _participant() -> Column[object]:
    return Column("participant_id", _ID, primary_key=True)


own_plans = _records("own_plans", Column("plan_digest", String(64), primary_key=True))
jobs = _records("jobs", _job())
members = _records("job_members", _job(), _participant())
job_lines = _records("job_lines", _job(), Column("number", Integer, primary_key=True, autoincrement=False))
rounds = _records("rounds", *_round())
notices = _records("round_notices", *_round(), _participant())
group_attempts = _records("group_attempts", *_round(), _group())
seat_shares = _records("seat_shares", *_round(), _group(), _digest("digest"))
clear_uploads = _records("clear_uploads", *_round(), _participant())

received_plans = _records(
    "received_plans", Column("plan_digest", String(64), primary_key=True), Column("agreement_id", _ID, primary_key=True)
)
participations = _records("participations", _job())
steps = _records("steps", *_round())
seat_rounds = _records("seat_rounds", *_round(), _group())
seat_uploads = _records("seat_uploads", *_round(), _participant())
seat_parcels = _records("seat_parcels", *_round(), _group(), _participant(), _digest("blob"))
child_shares = _records("child_shares", *_round(), _group(), _digest("digest"))
sketch_answers = _records("sketch_answers", *_round(), _group(), _participant())

# Times of work are Unix seconds: one comparison on both databases.
work = Table(
    "work",
    metadata,
    Column("task", String(64), primary_key=True),
    Column("key", _ID, primary_key=True),
    Column("due_at", Float, nullable=False),
    Column("publish_at", Float, nullable=False),
    Column("version", Integer, nullable=False, default=0),
    Column("published", Integer, nullable=False, default=0),
    Column("tries", Integer, nullable=False, default=0),
    Column("lease", String(64), nullable=True),
    Column("lease_owner", String(255), nullable=True),
    Column("lease_until", Float, nullable=True),
    Column("error", Text, nullable=True),
    Index("ix_work_publish_at", "publish_at"),
)
