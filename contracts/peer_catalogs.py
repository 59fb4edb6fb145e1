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

from contracts import shapes
from contracts.codec import encode, read_offer
from contracts.errors import CursorError, MalformedMessageError, PeerAnswerError
from contracts.messages import CatalogRequestMessage, Offer
from contracts.ports import Ids, Peer, PeerCalls

MAX_CATALOG_BYTES: Final = 16 << 20
_LINK = re.compile(r'<([^<>]*)>\s*;[^,]*rel="?([a-z]+)"?')


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfferedDataset:
    """A dataset of a peer: its offers (each with the dataset as target), formats, and all else it says."""

    id: str
    offers: tuple[Offer, ...]
    formats: tuple[str, ...]
    document: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeerCatalogPage:
    """A page of a peer's catalog; ``cursor`` asks for the next one."""

    participant_id: str
    datasets: tuple[OfferedDataset, ...]
    cursor: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeerCatalogs:
    """Asks peers for their catalogs."""

    calls: PeerCalls
    ids: Ids

    def request(
        self,
        peer: Peer,
        *,
        filter: Sequence[Mapping[str, Any]] = (),  # noqa: A002 - the specification's word
        cursor: str | None = None,
    ) -> PeerCatalogPage:
        """Return a page of a peer's catalog.

        Raises:
            CursorError: the cursor does not lead to this peer.
            PeerAnswerError: the peer answered with an error or with no catalog.
            PeerUnavailableError: it did not answer.
        """
        url = f"{peer.dsp_url}/catalog/request"
        if cursor is not None:
            if not _same_place(cursor, url):
                raise CursorError("cursor: it does not lead to this peer's catalog")
            url = cursor
        body = encode(CatalogRequestMessage(filter=tuple(filter)), message_id=self.ids())
        answer = self.calls.call("POST", url, audience=peer.participant_id, body=json.dumps(body).encode())
        if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            raise PeerAnswerError(f"the peer answered {answer.status} to the catalog request")
        try:
            document = shapes.json_object(answer.body, MAX_CATALOG_BYTES)
        except MalformedMessageError as error:
            raise PeerAnswerError(f"the peer's catalog cannot be read: {error}") from error
        following = next_link(answer.headers.get("link"), url)
        return PeerCatalogPage(
            participant_id=peer.participant_id,
            datasets=tuple(_datasets(document)),
            cursor=following if following and _same_place(following, url) else None,
        )

    def find(self, peer: Peer, dataset_id: str) -> OfferedDataset:
        """Return one dataset of a peer.

        Raises:
            PeerAnswerError: the peer has none of that id for us.
            PeerUnavailableError: it did not answer.
        """
        url = f"{peer.dsp_url}/catalog/datasets/{quote(dataset_id, safe=':')}"
        answer = self.calls.call("GET", url, audience=peer.participant_id)
        if answer.status != HTTPStatus.OK:
            raise PeerAnswerError(f"the peer answered {answer.status} when asked for the dataset")
        try:
            found = _dataset(shapes.json_object(answer.body, MAX_CATALOG_BYTES))
        except MalformedMessageError as error:
            raise PeerAnswerError(f"the peer's dataset cannot be read: {error}") from error
        return found


def next_link(header: str | None, base: str) -> str | None:
    """Return the absolute URL of the ``rel=next`` link in a Link header (RFC 8288), or ``None``."""
    links: list[tuple[str, str]] = _LINK.findall(header or "")
    return next((urljoin(base, target) for target, relation in links if relation == "next"), None)


def _datasets(document: Mapping[str, Any]) -> list[OfferedDataset]:
    entries = document.get("dataset", document.get("dcat:dataset", []))
    listed = entries if isinstance(entries, list) else [entries]
    found = []
    for entry in listed:
        try:
            found.append(_dataset(shapes.mapping(entry, "dataset")))
        except MalformedMessageError:
            # One dataset that we cannot negotiate about does not hide the others.
            continue
    return found


def _dataset(entry: Mapping[str, Any]) -> OfferedDataset:
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


def _same_place(url: str, base: str) -> bool:
    left, right = urlsplit(url), urlsplit(base)
    return (left.scheme, left.netloc, left.path) == (right.scheme, right.netloc, right.path)
