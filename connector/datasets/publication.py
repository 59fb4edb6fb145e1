"""Publishing a dataset: try its source out, then put notice, facts and offer where they belong.

What the catalog says is schema and bands: shape, columns with types and meanings, digests, never a value or an exact
count. Exact counts stay in ``state/facts`` of this participant.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from connector.datasets.document import DatasetFile, utc_text
from connector.datasets.errors import DatasetError
from connector.datasets.folder import DatasetFolder, LocalFacts
from connector.datasets.opening import open_dataset
from connector.sources.dry_run import DryRun, dry_run
from contracts.messages import Offer
from contracts.ports import Store
from contracts.processes import Dataset
from learning.views import FeatureView
from policies.canonical import digest
from policies.codec import parse_notice
from policies.errors import ConsentFormatError, PolicyFormatError, UnknownRecordError
from policies.gate import requirements
from policies.notices import Notice
from policies.parse import parse_policy
from policies.service import ConsentService
from policies.templates import fill_template

FORMAT = "FederatedTraining"
_TEMPLATE = "training"
_RULES = ("permission", "prohibition", "obligation")
_SMALLEST_BAND = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Publication:
    """What was published; ``facts`` hold exact counts, for the provider's own eyes."""

    dataset: Dataset
    notice: Notice
    facts: LocalFacts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Publisher:
    """Publishes and withdraws datasets of one participant, whether or not its API runs.

    Attributes:
        folder: the participant's dataset files.
        participant_id, participant_name: the controller of the data, where a file names no other.
        store: the contracts part of the participant's database.
        consents: its consent service.
        now: aware UTC time.
    """

    folder: DatasetFolder
    participant_id: str
    participant_name: str
    store: Store
    consents: ConsentService
    now: Callable[[], datetime]

    def publish(self, file: DatasetFile) -> Publication:
        """Try the source out and publish; the same file over the same source again changes nothing but the time.

        Raises:
            DatasetError: the source, the policy or the notice cannot be published as it is; nothing is.
            SourceError: the source cannot even be read.
            ViewError: the view is malformed or its parameters are not given.
        """
        source = open_dataset(file)
        found = dry_run(source)
        if found.problem is not None:
            raise DatasetError(f"{file.path.name}: {found.problem}")
        if not found.split.get("train"):
            raise DatasetError(f"{file.path.name}: the view leaves no row to train on: check its [split]")
        dataset = catalog_dataset(file, source.view, found)
        notice = self._notice(file, dataset)
        facts = LocalFacts(
            dataset_id=file.id,
            name=file.name,
            shape=source.view.shape,
            features=found.output_digest,
            view_digest=found.view_digest,
            rows=found.rows,
            subjects=found.subjects,
            train_rows=found.train_rows,
            published_at=self.now().isoformat(),
        )
        published = self.consents.publish_notice(notice)
        self.folder.write_facts(facts)
        # Last: whoever sees the offer finds the notice and the facts behind it.
        self.store.run("dataset.publish", lambda unit: unit.put_dataset(dataset, now=self.now()))
        return Publication(dataset=dataset, notice=published, facts=facts)

    def withdraw(self, dataset_id: str) -> None:
        """Take a dataset out of the catalog; agreements about it, consents and notices stay.

        Raises:
            DatasetError: it is not in the catalog.
        """
        if not self.store.run("dataset.withdraw", lambda unit: unit.remove_dataset(dataset_id)):
            raise DatasetError(f"the dataset {dataset_id} is not in the catalog")

    def _notice(self, file: DatasetFile, dataset: Dataset) -> Notice:
        """Return the notice in its present words: under the version in force, or under the next if they changed."""
        notice_id = f"{file.id}/notice"
        try:
            current: Notice | None = self.consents.notice(notice_id)
        except UnknownRecordError:
            current = None
        version = current.version if current is not None else 1
        notice = self._worded(file, dataset, notice_id, version)
        if current is None or notice.digest() == current.digest():
            return notice
        return dataclasses.replace(notice, version=version + 1)

    def _worded(self, file: DatasetFile, dataset: Dataset, notice_id: str, version: int) -> Notice:
        spec, purposes = file.document.notice, _purposes(file, dataset.offer)
        controller = spec.controller
        body = {
            "notice_id": notice_id,
            "version": version,
            "dataset_id": file.id,
            "controller": {
                "party_id": controller.id or self.participant_id,
                "name": controller.name or self.participant_name,
                "contact": controller.contact,
                "address": controller.address,
            },
            "purposes": [
                {
                    "purpose": purpose,
                    "recipients": list(spec.recipients),
                    "retention": spec.retention,
                    "data_categories": list(spec.data_categories),
                    "algorithm_class": spec.algorithm_class,
                    "special_category": spec.special_category,
                }
                for purpose in purposes
            ],
            "jurisdiction": spec.jurisdiction,
            "texts": {
                language: {
                    "title": text.title,
                    "short": text.short,
                    "full": text.full,
                    "withdrawal": text.withdrawal,
                    "purposes": dict.fromkeys(purposes, text.purpose) if text.purpose else {},
                }
                for language, text in spec.texts.items()
            },
            "default_language": spec.default_language or next(iter(spec.texts)),
            "valid_until": spec.valid_until,
            "consent_days": spec.consent_days,
            "storage_places": spec.storage_places,
            "withdrawal": spec.withdrawal,
            "authority": spec.authority,
            "dpo": spec.dpo,
        }
        try:
            return parse_notice(body, published_at=self.now())
        except ConsentFormatError as error:
            raise DatasetError(f"{file.path.name}: [notice] {error}") from None


def catalog_dataset(file: DatasetFile, view: FeatureView, found: DryRun) -> Dataset:
    """Return what the catalog shows of a dataset.

    Raises:
        DatasetError: the policy cannot be read, or a meaning is given for a column that the view has not.
    """
    return Dataset(
        id=file.id,
        title=file.document.title,
        description=file.document.description,
        keywords=file.document.keywords,
        formats=(FORMAT,),
        offer=_offer(file),
        properties={
            "shape": view.shape,
            "features": found.output_digest,
            "output": found.output,
            "viewDigest": found.view_digest,
            "columns": _columns(file, view),
            "label": _label(view),
            "rowsBand": rows_band(found.rows),
        },
    )


def rows_band(rows: int) -> str:
    """Return a count as a power-of-ten band, e.g. ``100-1000``; the upper end is not reached."""
    upper = _SMALLEST_BAND
    while rows >= upper:
        upper *= 10
    return f"{0 if upper == _SMALLEST_BAND else upper // 10}-{upper}"


def _offer(file: DatasetFile) -> Offer:
    document = _policy(file)
    rules = {kind: document[kind] for kind in _RULES if kind in document}
    # Named after its terms: a consumer who asks for older ones learns that they changed.
    return Offer(id=f"{file.id}/offers/{digest(rules)[:16]}", rules=rules, target=file.id)


def _policy(file: DatasetFile) -> Mapping[str, Any]:
    spec = file.document.policy
    try:
        if spec.file is not None:
            document = json.loads(file.beside(spec.file).read_text(encoding="utf-8"))
            parse_policy(document)
            return dict(document)
        return fill_template(
            _TEMPLATE,
            {
                "offer_id": file.id,
                "purpose": spec.purpose,
                "valid_from": utc_text(spec.valid_from) if spec.valid_from else None,
                "valid_until": utc_text(spec.valid_until) if spec.valid_until else None,
                "cohort_floor": spec.cohort_floor,
            },
        )
    except OSError as error:
        raise DatasetError(f"{file.path.name}: the policy file {spec.file} cannot be read ({error.strerror})") from None
    except (ValueError, PolicyFormatError) as error:
        what = str(error) if isinstance(error, PolicyFormatError) else "it is not JSON"
        raise DatasetError(f"{file.path.name}: the policy cannot be used: {what}") from None


def _purposes(file: DatasetFile, offer: Offer) -> tuple[str, ...]:
    found = requirements(parse_policy(offer.document())).purposes
    if not found:
        raise DatasetError(f"{file.path.name}: the policy names no purpose, and learners are asked for one")
    return found


def _columns(file: DatasetFile, view: FeatureView) -> list[dict[str, str]]:
    """Return the view's columns by name and type; of a category, how it is encoded stands in ``output``."""
    meanings = file.document.columns
    if view.responses is not None:
        spec = view.responses
        columns = [
            {"name": spec.item, "type": "item"},
            {"name": spec.skills, "type": "skills"},
            {"name": spec.correct, "type": "correct"},
            {"name": spec.order, "type": "order"},
        ]
    else:
        columns = [{"name": feature.column, "type": feature.type} for feature in view.features]
    known = [column["name"] for column in columns]
    for name in meanings:
        if name not in known:
            raise DatasetError(f"{file.path.name}: [columns] {name} is not a column of the view ({', '.join(known)})")
    return [{**column, "meaning": meanings.get(column["name"], "")} for column in columns]


def _label(view: FeatureView) -> dict[str, str]:
    if view.label is None:
        return {"name": "correct", "meaning": "1: the answer is correct"}
    return {"name": view.label.name, "meaning": view.label.meaning}
