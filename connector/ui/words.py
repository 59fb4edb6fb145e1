"""What the pages say, in each language: one TOML file a language, read when the first page is asked for."""

import dataclasses
import functools
import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import resources
from typing import Any

from policies.notices import choose_language

LANGUAGES = ("en", "fr", "de", "es")
DEFAULT = "en"
_DURATION = re.compile(r"P(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)W)?(?:(\d+)D)?")
_UNITS = ("years", "months", "weeks", "days")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Words:
    """The words of one language."""

    language: str
    entries: Mapping[str, Mapping[str, Any]] = dataclasses.field(repr=False)

    def __call__(self, key: str, **places: object) -> str:
        """Return the words for ``section.key`` with its places filled.

        Raises:
            KeyError: there are none; ours.
        """
        section, _, name = key.partition(".")
        return str(self.entries[section][name]).format_map(places)

    def date(self, moment: datetime) -> str:
        """Return a day as one writes it (UTC)."""
        entries = self.entries["language"]
        return str(entries["date"]).format(day=moment.day, month=entries["months"][moment.month - 1], year=moment.year)

    def time(self, moment: datetime) -> str:
        """Return a day with its time (UTC)."""
        return f"{self.date(moment)}, {moment:%H:%M} UTC"

    def duration(self, text: str) -> str:
        """Return an ISO 8601 duration in words; one that we cannot read as it is."""
        found = _DURATION.fullmatch(text)
        if found is None or not any(found.groups()):
            return text
        parts = [self._count(unit, int(number)) for unit, number in zip(_UNITS, found.groups(), strict=True) if number]
        return self.join(parts)

    def join(self, parts: Sequence[str]) -> str:
        """Return an enumeration."""
        if len(parts) < 2:  # noqa: PLR2004 - nothing to join
            return "".join(parts)
        return f"{', '.join(parts[:-1])} {self('language.and')} {parts[-1]}"

    def term(self, section: str, iri: str) -> str:
        """Return what an IRI means; one without words of its own as its last part, spaced out."""
        name = re.split(r"[/#]", iri.rstrip("/#"))[-1]
        known = self.entries[section].get(name)
        return str(known) if known is not None else _CAMEL.sub(" ", name).lower()

    def _count(self, unit: str, number: int) -> str:
        one, many = self.entries["time"][unit]
        return str(one if number == 1 else many).format(count=number)


@functools.cache
def words(language: str) -> Words:
    """Return the words of one of :data:`LANGUAGES`."""
    file = resources.files("connector.ui").joinpath("words", f"{language}.toml")
    return Words(language=language, entries=tomllib.loads(file.read_text(encoding="utf-8")))


def language_name(tag: str) -> str:
    """Return what a language calls itself; its tag where we have no words in it."""
    primary = tag.partition("-")[0].lower()
    return words(primary)("language.name") if primary in LANGUAGES else tag


def reader_language(chosen: str | None, accept_language: str | None) -> str:
    """Return the language of a reader: what they chose, else what their browser asks for."""
    if chosen in LANGUAGES:
        return str(chosen)
    return choose_language(_OURS, accept_language)


@dataclasses.dataclass(frozen=True)
class _Offered:
    """Our languages in the shape that the choice of a notice's language reads."""

    texts: Mapping[str, str]
    default_language: str


_OURS: Any = _Offered(texts=dict.fromkeys(LANGUAGES, ""), default_language=DEFAULT)
