"""An institution's list of consents, row by row: what parses is applied, what does not is refused in its place."""

import dataclasses
from collections.abc import Callable, Sequence

from policies.codec import parse_import_row
from policies.errors import ConsentFormatError
from policies.people import Expression, ImportResult
from policies.service import ConsentService


def import_rows(
    service: ConsentService, rows: Sequence[object], parse: Callable[[object], Expression] = parse_import_row
) -> list[ImportResult]:
    """Import rows and return what became of each, in order.

    Args:
        service: the consent service.
        rows: as they came, unchecked.
        parse: from a row to an expression; raises ConsentFormatError, whose message repeats no value.

    Raises:
        ConsentFormatError: more rows than the service takes at once.
    """
    parsed: list[tuple[int, Expression]] = []
    results: list[ImportResult] = []
    for index, row in enumerate(rows):
        try:
            parsed.append((index, parse(row)))
        except ConsentFormatError as error:
            results.append(ImportResult(index=index, outcome="refused", code=error.code, detail=str(error)))
    applied = service.import_expressions([expression for _index, expression in parsed])
    placed = zip(parsed, applied, strict=True)
    results += [dataclasses.replace(result, index=index) for (index, _expression), result in placed]
    return sorted(results, key=lambda result: result.index)
