"""Which rounds of which jobs read whose rows: spans that change only when somebody comes or goes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sqlalchemy import Connection, Select, Update, and_, bindparam, select, update

from connector.storage.tables_consents import consent_use_spans, consent_uses
from policies.ports import UseCost, UseSpan
from policies.subjects import REF_LENGTH

_MASK = (1 << 128) - 1


def write_use(
    connection: Connection,
    use: UseSpan,
    subjects: frozenset[str],
    cost: UseCost | None = None,
    *,
    locked: Callable[[Select[Any]], Select[Any]],
) -> None:
    """Note that round ``use.last_round`` read exactly these subjects' rows; of an earlier round only its cost.

    The last round may be noted again (a second attempt, a redelivered message) and may have read other rows the second
    time: whoever was in either is noted as in, because both read.
    """
    round_number = use.last_round
    last, known = _lock_job(connection, use, locked)
    if cost is not None:
        connection.execute(_spent(use, cost))
    members = checksum(subjects)
    if last is not None and round_number > last and known == members:
        # Nobody came or went: their spans stay open as they are.
        connection.execute(_moved(use, members))
        return
    spans = consent_use_spans
    open_now = frozenset(
        connection.execute(select(spans.c.subject_ref).where(_of(spans, use), spans.c.last_round.is_(None))).scalars()
    )
    if last is not None and round_number <= last:
        if round_number == last and not subjects <= open_now:
            _open(connection, use, subjects - open_now, round_number)
            connection.execute(_moved(use, checksum(subjects | open_now)))
        return
    gone = open_now - subjects
    if gone and last is not None:
        statement = (
            update(spans)
            .where(_of(spans, use), spans.c.last_round.is_(None), spans.c.subject_ref == bindparam("who"))
            .values(last_round=last)
        )
        connection.execute(statement, [{"who": who} for who in sorted(gone)])
    _open(connection, use, subjects - open_now, round_number)
    connection.execute(_moved(use, members))


def checksum(subjects: frozenset[str]) -> str:
    """Return a number for a set of pseudonyms, whatever their order: how many, and their sum modulo 2^128.

    Pseudonyms are outputs of a keyed hash, so nobody can choose two sets with the same sum.
    """
    data = bytes.fromhex("".join(subjects))
    # In columns of 32 bits, whose sums of up to four thousand million pseudonyms fit into 64.
    columns = np.frombuffer(data, dtype=">u4").reshape(-1, REF_LENGTH // 8).sum(axis=0, dtype=np.uint64)
    total = 0
    for column in columns:
        total = (total << 32) + int(column)
    return f"{len(subjects)}:{total & _MASK:x}"


def _moved(use: UseSpan, members: str) -> Update:
    job = consent_uses
    values = {"last_round": use.last_round, "noise": use.noise, "members": members}
    return update(job).where(_of(job, use)).values(**values)


def _spent(use: UseSpan, cost: UseCost) -> Update:
    # A second attempt trains again and may show another noisy sum: it costs again.
    job = consent_uses
    values = {
        "agreement_id": cost.agreement_id,
        "seconds": job.c.seconds + cost.seconds,
        "epsilon": job.c.epsilon + cost.epsilon,
    }
    return update(job).where(_of(job, use)).values(**values)


def read_uses(connection: Connection, subject_refs: Sequence[str]) -> list[UseSpan]:
    """Return the spans of these subjects; an open one ends at its job's last round."""
    spans, jobs = consent_use_spans, consent_uses
    joined = spans.join(
        jobs,
        and_(
            jobs.c.job_id == spans.c.job_id,
            jobs.c.dataset_id == spans.c.dataset_id,
            jobs.c.purpose == spans.c.purpose,
        ),
    )
    statement = (
        select(spans, jobs.c.noise, jobs.c.last_round.label("job_last"))
        .select_from(joined)
        .where(spans.c.subject_ref.in_(subject_refs))
        .order_by(spans.c.job_id, spans.c.subject_ref, spans.c.first_round)
    )
    return [
        UseSpan(
            job_id=row["job_id"],
            dataset_id=row["dataset_id"],
            purpose=row["purpose"],
            first_round=row["first_round"],
            last_round=row["job_last"] if row["last_round"] is None else row["last_round"],
            noise=row["noise"],
        )
        for row in connection.execute(statement).mappings()
    ]


def _lock_job(
    connection: Connection, use: UseSpan, locked: Callable[[Select[Any]], Select[Any]]
) -> tuple[int | None, str | None]:
    """Return the job's last round with its members and hold its row; None for its first use, whose row is then made."""
    job = consent_uses
    row = connection.execute(locked(select(job.c.last_round, job.c.members).where(_of(job, use)))).first()
    if row is not None:
        return row.last_round, row.members
    connection.execute(
        job.insert().values(
            job_id=use.job_id,
            dataset_id=use.dataset_id,
            purpose=use.purpose,
            last_round=use.last_round,
            noise=use.noise,
        )
    )
    return None, None


def _open(connection: Connection, use: UseSpan, subjects: frozenset[str], round_number: int) -> None:
    rows = [
        {
            "job_id": use.job_id,
            "dataset_id": use.dataset_id,
            "purpose": use.purpose,
            "subject_ref": who,
            "first_round": round_number,
            "last_round": None,
        }
        for who in sorted(subjects)
    ]
    if rows:
        connection.execute(consent_use_spans.insert(), rows)


def _of(table: Any, use: UseSpan) -> Any:
    return and_(table.c.job_id == use.job_id, table.c.dataset_id == use.dataset_id, table.c.purpose == use.purpose)
