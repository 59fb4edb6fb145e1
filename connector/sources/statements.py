"""xAPI statements as answers: who, which item, which skills, right or wrong, when (xAPI 1.0.3 part 2, section 2)."""

import base64
import json
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from connector.sources.admission import Admission
from connector.sources.source import Fetch, Location, SourceError
from learning.views import StatementSpec

_VOIDED = "http://adlnet.gov/expapi/verbs/voided"
_PAGE = 500
_MOST_PAGES = 100_000
_SCHEMA = pa.schema(
    [
        ("subject", pa.string()),
        ("item", pa.string()),
        ("skills", pa.string()),
        ("correct", pa.bool_()),
        ("score", pa.float64()),
        ("time", pa.timestamp("us", tz="UTC")),
    ]
)


def statements_table(
    statements: Iterable[tuple[str, Mapping[str, Any]]], spec: StatementSpec, separator: str, admission: Admission
) -> Any:
    """Return admitted statements as a pyarrow table: subject, item, skills, correct, score, time.

    A voided statement is left out wherever its voiding one stands (xAPI 1.0.3 part 2, section 2.3.2).

    Args:
        statements: (place, statement) pairs; the place is for messages, e.g. ``a.jsonl line 3``.
        spec: which verbs count and where skills are.
        separator: joins the skills of one answer.
        admission: whose statements are kept at all.

    Raises:
        SourceError: a statement of a wanted verb lacks what an answer needs.
    """
    rows: dict[str, tuple[Any, ...]] = {}
    voided: set[str] = set()
    for place, statement in statements:
        verb = _text(statement, "verb", "id")
        if verb == _VOIDED:
            voided.add(_text(statement, "object", "id") or "")
        elif verb in spec.verbs:
            subject = _subject(statement.get("actor"))
            if subject is None:
                raise SourceError("source-malformed", f"{place}: the statement's actor has no account, mbox or name")
            if admission.admits(subject):
                rows[str(statement.get("id", place))] = _row(place, statement, subject, spec, separator)
    kept = [row for identifier, row in rows.items() if identifier not in voided]
    for row in kept:
        admission.count(row[0])
    columns = zip(*kept, strict=True) if kept else [[] for _ in _SCHEMA]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)], _SCHEMA)


def read_lines(paths: Iterable[Path]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the statements of .jsonl files, each with its place.

    Raises:
        SourceError: a line is not a JSON object.
    """
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{path.name} line {number}", _object(line, f"{path.name} line {number}")


def read_store(location: Location) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield all statements of a Learning Record Store, following ``more`` (xAPI 1.0.3 part 3, section 2.1.3).

    Filters stay on our side: stores differ in which ones they know. A ``more`` that leaves the store is refused.

    Raises:
        SourceError: the store does not answer, or not as the standard says.
    """
    base, fetch = location.connection, location.fetch
    if base is None or fetch is None:
        raise SourceError("source-missing", "no address of a record store: set it in the dataset's configuration")
    url = f"{base.rstrip('/')}/statements?limit={_PAGE}&ascending=true"
    seen: set[str] = set()
    for _ in range(_MOST_PAGES):
        seen.add(url)
        page = _page(fetch, url, _headers(location))
        for index, statement in enumerate(page.get("statements", ())):
            yield f"page {len(seen)} statement {index + 1}", statement
        more = page.get("more")
        if not more:
            return
        url = urllib.parse.urljoin(url, str(more))
        if urllib.parse.urlsplit(url)[:2] != urllib.parse.urlsplit(base)[:2] or url in seen:
            raise SourceError("source-malformed", "the record store's next page is not its own", whose="world")
    raise SourceError("source-malformed", "the record store's pages do not end", whose="world")


def _headers(location: Location) -> dict[str, str]:
    headers = {"X-Experience-API-Version": "1.0.3", "Accept": "application/json"}
    if location.credential is not None:
        pair = base64.b64encode(":".join(location.credential).encode()).decode()
        headers["Authorization"] = f"Basic {pair}"
    return headers


def _page(fetch: Fetch, url: str, headers: Mapping[str, str]) -> Mapping[str, Any]:
    try:
        page: object = fetch(url, headers)
    except SourceError:
        raise
    except Exception as error:
        raise SourceError(
            "source-unreachable",
            f"the record store does not answer ({type(error).__name__}): ask who runs it",
            whose="world",
        ) from error
    if not isinstance(page, Mapping) or not isinstance(page.get("statements"), list):
        raise SourceError("source-malformed", "the record store's answer has no list of statements", whose="world")
    return page


def _row(
    place: str, statement: Mapping[str, Any], subject: str, spec: StatementSpec, separator: str
) -> tuple[Any, ...]:
    item, success = _text(statement, "object", "id"), _part(statement, "result").get("success")
    if item is None or not isinstance(success, bool):
        raise SourceError("source-malformed", f"{place}: an answer needs object.id and result.success")
    skills = separator.join(_skills(_part(statement, "context"), spec))
    score = _part(_part(statement, "result"), "score").get("scaled")
    return subject, item, skills or None, success, score, _time(place, statement.get("timestamp"))


def _skills(context: Mapping[str, Any], spec: StatementSpec) -> list[str]:
    if spec.skills == "extension":
        named = _part(context, "extensions").get(spec.extension or "", ())
        return [str(skill) for skill in ([named] if isinstance(named, str) else named)]
    activities = _part(context, "contextActivities").get(spec.skills, ())
    # One activity may stand without its list (section 2.4.6.2).
    listed = [activities] if isinstance(activities, Mapping) else activities
    ids = [str(activity.get("id", "")) for activity in listed]
    return [name.removeprefix(spec.skill_prefix) for name in ids if name.startswith(spec.skill_prefix)]


def _subject(actor: object) -> str | None:
    """Return who acted: the account's name before a mail address (section 2.4.2.3)."""
    if not isinstance(actor, Mapping):
        return None
    names = (_part(actor, "account").get("name"), *(actor.get(key) for key in ("mbox", "mbox_sha1sum", "openid")))
    return next((str(name) for name in names if name), None)


def _time(place: str, text: object) -> datetime:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        raise SourceError("source-malformed", f"{place}: the timestamp is not an ISO 8601 time") from None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _object(line: str, place: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, Mapping):
        raise SourceError("source-malformed", f"{place}: it is not a JSON object: fix the export")
    return value


def _part(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = value.get(name)
    return part if isinstance(part, Mapping) else {}


def _text(statement: Mapping[str, Any], part: str, name: str) -> str | None:
    text = _part(statement, part).get(name)
    return text if isinstance(text, str) else None
