"""The catalog: what a peer may see, page by page, and the datasets that an operator publishes.

A peer sees a dataset only when its policy, evaluated at the scope of the catalog, allows that peer. Pages are cut by
dataset id, so the last page costs what the first does.
"""

import base64
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from contracts.actions import actions, decide_any
from contracts.errors import CursorError, UnknownProcessError, UnsupportedFilterError
from contracts.messages import CatalogRequestMessage
from contracts.ports import CatalogQuery, Clock, Participant, PolicyGate, Store, UnitOfWork
from contracts.processes import Caller, Dataset
from contracts.shapes import CONTEXT, ORCHARD
from contracts.usage import consumer_facts

PAGE_SIZE: Final = 100
_FILTER_FIELDS: Final = ("keyword", "format", "text")
# How many pages may be read to fill one, when the policies hide most of what is stored.
_READS_PER_PAGE: Final = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class CatalogPage:
    """A Catalog as JSON, and the opaque tokens of its neighbours."""

    document: dict[str, Any]
    next: str | None
    previous: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CatalogService:
    """Serves and edits this participant's catalog."""

    store: Store
    gate: PolicyGate
    participant: Participant
    clock: Clock
    page_size: int = PAGE_SIZE

    def request(self, caller: Caller, message: CatalogRequestMessage, token: str | None = None) -> CatalogPage:
        """Return the page of the catalog that ``token`` names, or the first.

        Raises:
            UnsupportedFilterError: a filter that we do not know.
            CursorError: a token that is not ours.
        """
        query = dataclasses.replace(read_filter(message.filter), **_read_token(token), limit=self.page_size)
        visible, more, edge = self._visible(caller, query)
        backwards = query.before is not None
        has_previous = more if backwards else query.after is not None
        has_next = True if backwards else more
        document: dict[str, Any] = {
            "@context": [CONTEXT],
            "@id": f"{self.participant.dsp_url}/catalog",
            "@type": "Catalog",
            "participantId": self.participant.id,
            "service": [self._service()],
        }
        if visible:
            document["dataset"] = [self.describe(dataset) for dataset in visible]
        return CatalogPage(
            document=document,
            next=page_token(after=visible[-1].id if visible else edge) if has_next and (visible or edge) else None,
            previous=page_token(before=visible[0].id) if has_previous and visible else None,
        )

    def read(self, caller: Caller, dataset_id: str) -> dict[str, Any]:
        """Return one Dataset as JSON.

        Raises:
            UnknownProcessError: there is none for this caller.
        """
        found = self.store.dataset(dataset_id)
        if found is None or not self._allowed(caller, found, {}):
            raise UnknownProcessError("there is no such dataset")
        return {"@context": [CONTEXT], **self.describe(found)}

    def describe(self, dataset: Dataset) -> dict[str, Any]:
        """Return a dataset as it stands in a catalog; what DSP does not know stands under Orchard's own names."""
        offer = dataclasses.replace(dataset.offer, target=None)
        document: dict[str, Any] = {
            "@id": dataset.id,
            "@type": "Dataset",
            "hasPolicy": [offer.document()],
            "distribution": [
                {"@type": "Distribution", "format": name, "accessService": self._service()["@id"]}
                for name in dataset.formats
            ],
            "title": dataset.title,
        }
        if dataset.description:
            document["description"] = [dataset.description]
        if dataset.keywords:
            document["keyword"] = list(dataset.keywords)
        document.update({ORCHARD + name: value for name, value in dataset.properties.items()})
        return document

    def publish(self, dataset: Dataset) -> Dataset:
        """Insert or replace a dataset and its offer."""
        now = self.clock()
        self.store.run("catalog.publish", lambda uow: uow.put_dataset(dataset, now=now))
        return dataset

    def publish_all(self, datasets: Sequence[Dataset]) -> None:
        """Insert or replace many datasets in one transaction."""
        now = self.clock()

        def work(uow: UnitOfWork) -> None:
            for dataset in datasets:
                uow.put_dataset(dataset, now=now)

        self.store.run("catalog.publish", work)

    def withdraw(self, dataset_id: str) -> None:
        """Take a dataset out of the catalog; agreements about it stay.

        Raises:
            UnknownProcessError: there is no such dataset.
        """
        if not self.store.run("catalog.withdraw", lambda uow: uow.remove_dataset(dataset_id)):
            raise UnknownProcessError("there is no such dataset")

    def _service(self) -> dict[str, str]:
        url = self.participant.dsp_url
        return {"@id": f"{url}#service", "@type": "DataService", "endpointURL": url}

    def _visible(self, caller: Caller, query: CatalogQuery) -> tuple[list[Dataset], bool, str]:
        """Return a page of what the caller may see, in id order, whether more lies beyond it, and the last id read."""
        found: list[Dataset] = []
        batch: Sequence[Dataset] = ()
        verdicts: dict[str, bool] = {}
        backwards = query.before is not None
        for _ in range(_READS_PER_PAGE):
            batch = self.store.datasets(dataclasses.replace(query, limit=self.page_size + 1))
            allowed = [dataset for dataset in batch if self._allowed(caller, dataset, verdicts)]
            found = [*allowed, *found] if backwards else [*found, *allowed]
            if len(batch) <= self.page_size or len(found) > self.page_size:
                break
            query = (
                dataclasses.replace(query, before=batch[0].id)
                if backwards
                else dataclasses.replace(query, after=batch[-1].id)
            )
        more = len(found) > self.page_size or len(batch) > self.page_size
        page = found[-self.page_size :] if backwards else found[: self.page_size]
        return page, more, batch[-1].id if batch else ""

    def _allowed(self, caller: Caller, dataset: Dataset, verdicts: dict[str, bool]) -> bool:
        # Many datasets share their terms; each distinct set of terms is evaluated once per page.
        key = json.dumps(dataset.offer.rules, sort_keys=True)
        if key not in verdicts:
            offer = dataset.offer
            verdict = decide_any(self.gate, "catalog", offer.document(), consumer_facts(caller), actions(offer.rules))
            verdicts[key] = verdict.allowed
        return verdicts[key]


def read_filter(entries: Sequence[Mapping[str, Any]]) -> CatalogQuery:
    """Return the query that filter objects stand for: ``{"keyword"|"format"|"text": text}``, all of them to hold.

    Raises:
        UnsupportedFilterError: anything else; a filter that is not understood is not ignored.
    """
    chosen: dict[str, str] = {}
    for entry in entries:
        for name, value in entry.items():
            field = name.removeprefix(ORCHARD).removeprefix("orchard:")
            if name in ("@type", "@context"):
                continue
            if field not in _FILTER_FIELDS or not isinstance(value, str) or field in chosen:
                raise UnsupportedFilterError(f"filter: supported are {', '.join(_FILTER_FIELDS)}, each once, as texts")
            chosen[field] = value
    return CatalogQuery(
        keyword=chosen.get("keyword"), format=chosen.get("format"), text=chosen.get("text"), limit=PAGE_SIZE
    )


def page_token(**place: str) -> str:
    """Return the opaque token of the page ``after`` or ``before`` a dataset id."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).rstrip(b"=").decode()


def _read_token(token: str | None) -> dict[str, Any]:
    if token is None:
        return {}
    try:
        place = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except ValueError:
        place = None
    if not isinstance(place, dict) or len(place) != 1:
        raise CursorError("page: this token was not handed out here")
    ((name, value),) = place.items()
    if name not in ("after", "before") or not isinstance(value, str) or "\0" in value or not value.isprintable():
        raise CursorError("page: this token was not handed out here")
    return {name: value}
