"""The words of the pages: complete in every language, and said as people say them."""

import string
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from connector.ui.words import LANGUAGES, reader_language, words


def _places(language: str) -> Iterator[tuple[str, str, frozenset[str]]]:
    for section, entries in words(language).entries.items():
        for key, value in entries.items():
            texts = value if isinstance(value, list) else [value]
            found = {name for text in texts for _, name, _, _ in string.Formatter().parse(text) if name}
            yield section, key, frozenset(found)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_says_everything(language: str) -> None:
    """Each language has the same keys with the same places, and no empty words."""
    assert sorted(_places(language)) == sorted(_places("en"))
    assert all(str(value).strip() for entries in words(language).entries.values() for value in entries.values())


def test_dates_and_durations_are_words() -> None:
    """Dates and ISO 8601 durations read as one writes them in each language."""
    day = datetime(2026, 11, 21, tzinfo=UTC)
    assert [words(one).date(day) for one in LANGUAGES] == [
        "21 November 2026",
        "21 novembre 2026",
        "21. November 2026",
        "21 de noviembre de 2026",
    ]
    assert words("de").duration("P1Y6M") == "1 Jahr und 6 Monate"
    assert words("fr").duration("P30D") == "30 jours"
    assert words("en").duration("PT5M") == "PT5M"


def test_the_reader_chooses_then_the_browser() -> None:
    """A chosen language wins, then Accept-Language, then English."""
    assert reader_language("es", "de") == "es"
    assert reader_language("xx", "de-AT, en;q=0.5") == "de"
    assert reader_language(None, "ja") == "en"


def test_pages_cost_nothing_until_somebody_comes() -> None:
    """The API process loads neither templates nor the sign-in library when it starts."""
    code = (
        "import sys, connector.wiring\n"
        "print(sorted(name for name in ('jinja2', 'authlib', 'playwright') if name in sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
