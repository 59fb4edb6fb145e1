"""Reading the catalogs of peers, as loosely as their writers write them.

Peers serve empty ``distribution`` arrays, single objects for arrays, and pages behind ``Link`` with tokens of their own.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urljoin, urlsplit

from contracts import replies, shapes
from contracts.codec import Expand, encode, read_offer
from contracts.errors import CursorError, MalformedMessageError, PeerAnswerError
from contracts.messages import CatalogRequestMessage, Offer
from contracts.ports import Ids, Peer, PeerAnswer, PeerCalls

MAX_CATALOG_BYTES: Final = 16 << 20
_LINK = re.compile(r'<([^<>]*)>\s*;[^,<]*?\brel=(?:"([^"]*)"|([^\s;,"]+))', re.IGNORECASE)
# The protocol says "previous"; RFC 8288 registers "prev".
_PREVIOUS = ("previous", "prev")
_NO_CHANGE = (HTTPStatus.NOT_MODIFIED, HTTPStatus.PRECONDITION_FAILED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfferedDataset:
    """A dataset of a peer: its offers (each with the dataset as target), formats, and all else it says."""

    id: str
    offers: tuple[Offer, ...]
    formats: tuple[str, ...]
    document: Mapping[str, Any] = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeerCatalogPage:
    """A page of a peer's catalog; ``cursor`` asks for the next one, ``previous`` for the one before.

    ``etag`` names this state of the page. ``unchanged``: the peer said that we have it already; nothing else is told.
    """

    participant_id: str
    datasets: tuple[OfferedDataset, ...] = ()
    cursor: str | None = None
    previous: str | None = None
    etag: str | None = None
    unchanged: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeerCatalogs:
    """Asks peers for their catalogs; ``expand`` reads those under a foreign ``@context``."""

    calls: PeerCalls
    ids: Ids
    expand: Expand | None = None

    def request(
        self,
        peer: Peer,
        *,
        filter: Sequence[Mapping[str, Any]] = (),  # noqa: A002 - the specification's word
        cursor: str | None = None,
        etag: str | None = None,
    ) -> PeerCatalogPage:
        """Return a page of a peer's catalog; with ``etag``, only if it is another than that.

        Raises:
            CursorError: the cursor does not lead to this peer.
            PeerAnswerError: the peer answered with an error or with no catalog.
            PeerUnavailableError: it did not answer.
        """
        url = self.first_url(peer)
        if cursor is not None:
            if not _same_place(cursor, url):
                raise CursorError("cursor: it does not lead to this peer's catalog")
            url = cursor
        body = encode(CatalogRequestMessage(filter=tuple(filter)), message_id=self.ids())
        answer = self.calls.call(
            "POST",
            url,
            audience=peer.participant_id,
            body=json.dumps(body).encode(),
            headers={"If-None-Match": etag} if etag else None,
        )
        if etag and answer.status in _NO_CHANGE:
            return PeerCatalogPage(participant_id=peer.participant_id, etag=etag, unchanged=True)
        if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            raise PeerAnswerError(f"the peer answered {_said(answer)} to the catalog request")
        datasets = read_datasets(self._read(answer, "catalog"))
        given = answer.headers.get("etag")
        return PeerCatalogPage(
            participant_id=peer.participant_id,
            datasets=datasets,
            cursor=_near(answer, url, ("next",)),
            previous=_near(answer, url, _PREVIOUS),
            etag=given if given and len(given) <= shapes.MAX_ID else None,
        )

    def first_url(self, peer: Peer) -> str:
        """Return where the first page of a peer's catalog is asked for."""
        return f"{peer.dsp_url}/catalog/request"

    def find(self, peer: Peer, dataset_id: str) -> OfferedDataset:
        """Return one dataset of a peer.

        Raises:
            PeerAnswerError: the peer has none of that id for us.
            PeerUnavailableError: it did not answer.
        """
        url = f"{peer.dsp_url}/catalog/datasets/{quote(dataset_id, safe=':')}"
        answer = self.calls.call("GET", url, audience=peer.participant_id)
        if answer.status != HTTPStatus.OK:
            raise PeerAnswerError(f"the peer answered {_said(answer)} when asked for the dataset")
        document = self._read(answer, "dataset")
        try:
            return read_dataset(document)
        except MalformedMessageError as error:
            raise PeerAnswerError(f"the peer's dataset cannot be read: {error}") from error

    def _read(self, answer: PeerAnswer, what: str) -> Mapping[str, Any]:
        try:
            return replies.read(answer.body, self.expand, MAX_CATALOG_BYTES)
        except MalformedMessageError as error:
            raise PeerAnswerError(f"the peer's {what} cannot be read: {error}") from error


def link(header: str | None, base: str, relations: Sequence[str]) -> str | None:
    """Return the absolute URL of the first link with one of these relations in a Link header (RFC 8288), or ``None``."""
    links: list[tuple[str, str, str]] = _LINK.findall((header or "")[: 4 * shapes.MAX_TEXT])
    for target, quoted, bare in links:
        if set((quoted or bare).lower().split()) & set(relations):
            try:
                return urljoin(base, target)
            except ValueError:
                return None
    return None


def read_datasets(document: Mapping[str, Any]) -> tuple[OfferedDataset, ...]:
    """Return the datasets of a Catalog; those that nobody could negotiate about are left out."""
    entries = document.get("dataset", document.get("dcat:dataset", []))
    listed = entries if isinstance(entries, list) else [entries]
    found = []
    for entry in listed:
        try:
            found.append(read_dataset(shapes.mapping(entry, "dataset")))
        except MalformedMessageError:
            # One dataset that we cannot negotiate about does not hide the others.
            continue
    return tuple(found)


def read_dataset(entry: Mapping[str, Any]) -> OfferedDataset:
    """Return a Dataset from its compact JSON.

    Raises:
        MalformedMessageError: it is none.
    """
    dataset_id = shapes.identifier(entry.get("@id"), "dataset @id")
    policies = entry.get("hasPolicy", [])
    offers = [read_offer(shapes.mapping(p, "offer")) for p in (policies if isinstance(policies, list) else [policies])]
    distributions = entry.get("distribution", [])
    listed = distributions if isinstance(distributions, list) else [distributions]
    formats = (item.get("format") for item in listed if isinstance(item, Mapping))
    return OfferedDataset(
        id=dataset_id,
        offers=tuple(dataclasses.replace(offer, target=dataset_id) for offer in offers),
        formats=tuple(name for name in formats if isinstance(name, str)),
        document=entry,
    )


def _near(answer: PeerAnswer, url: str, relations: Sequence[str]) -> str | None:
    """Return where a link leads, if that is a page of the same catalog."""
    found = link(answer.headers.get("link"), url, relations)
    return found if found and _same_place(found, url) else None


def _said(answer: PeerAnswer) -> str:
    try:
        refusal = replies.read_refusal(answer.body)
    except MalformedMessageError:
        return str(answer.status)
    said = ": ".join(part for part in (refusal.code, "; ".join(refusal.reasons)[:200]) if part)
    return f"{answer.status} ({said})" if said else str(answer.status)


def _same_place(url: str, base: str) -> bool:
    try:
        left, right = urlsplit(url), urlsplit(base)
    except ValueError:
        return False
    return (left.scheme, left.netloc, left.path) == (right.scheme, right.netloc, right.path)
