"""Snapshots of datasets for jobs: made once per set of consenting learners, gone when the set changes or the job ends.

A snapshot lies at ``state/snapshots/<job>/<key>/data.safetensors``, folders 0700. Its key is made of the source's
fingerprint, the view with its parameters, and the subjects. A source without a fingerprint (a database, a record
store) is read again each time.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from connector.datasets.document import DatasetFile
from connector.datasets.errors import DatasetError
from connector.datasets.folder import DatasetFolder
from connector.settings import Settings
from connector.sources.source import SourceError
from learning.errors import StepFailedError
from learning.ports import Snapshot
from learning.steps import DATA_FILE
from learning.views import ViewError, view_digest
from policies.canonical import digest
from policies.subjects import subject_ref

if TYPE_CHECKING:
    from connector.sources.opened import OpenedSource

_FACTS_FILE = "facts.json"
_BUILDING = ".building-"
_UNREACHABLE = "source-unreachable"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Known:
    """The last snapshot of a job in this process: a call with equal arguments needs no reading at all."""

    dataset_id: str
    source: str
    subjects: frozenset[str]
    snapshot: Snapshot


class ParticipantSnapshots:
    """``learning.ports.Snapshots`` over this participant's dataset files. Safe between threads and processes."""

    def __init__(self, settings: Settings, pseudonym_key: bytes) -> None:
        """Use the datasets of ``settings``; ``pseudonym_key`` is the secret that the consent service uses."""
        self._folder = DatasetFolder(settings)
        self._place = settings.folder / "state" / "snapshots"
        self._subject_ref = partial(subject_ref, pseudonym_key)
        self._root = settings.folder
        self._opened: dict[str, tuple[DatasetFile, int, OpenedSource, Path | None]] = {}
        self._known: dict[str, _Known] = {}

    def facts(self, dataset_id: str) -> Mapping[str, Any]:
        """Return shape, features digest and exact training rows of a published dataset; empty when there is none."""
        found = self._folder.facts(dataset_id)
        if found is None:
            return {}
        return {"shape": found.shape, "features": found.features, "train_rows": found.train_rows}

    def prepare(self, dataset_id: str, job_id: str, subjects: frozenset[str]) -> Snapshot:
        """Return the snapshot of a dataset for these subjects (pseudonyms), made or found again.

        Raises:
            StepFailedError: the dataset or its source cannot be read; only an unreachable one may be tried again.
        """
        with self._told():
            source = self._open(dataset_id)
            mark = _source_mark(source)
            known = self._known.get(job_id)
            if (
                known is not None
                and mark is not None
                and (known.dataset_id, known.source) == (dataset_id, mark)
                and known.subjects == subjects
                and known.snapshot.path.is_file()
            ):
                return known.snapshot
            # A source without a fingerprint gets a key of its own each time: it is read anew.
            key = _key(mark or secrets.token_hex(16), subjects)
            job = self._job_folder(job_id)
            # First what must not stay, then the new one: a learner who withdrew is gone even if the source is too.
            _clear(job, keep=key)
            snapshot = _found(job / key) or self._build(source, job, key, subjects)
            if mark is not None:
                self._known[job_id] = _Known(dataset_id=dataset_id, source=mark, subjects=subjects, snapshot=snapshot)
            return snapshot

    def forget(self, job_id: str) -> None:
        """Delete every snapshot made for a job; none is no error."""
        self._known.pop(job_id, None)
        shutil.rmtree(self._place / _job_name(job_id), ignore_errors=True)

    def _open(self, dataset_id: str) -> "OpenedSource":
        # Workers only: the API process never reads a source, and must not pay for its readers.
        from connector.datasets.opening import open_dataset, source_folder, view_stamp  # noqa: PLC0415 - as said above

        dataset = self._folder.find(dataset_id)
        stamp = view_stamp(dataset)
        kept = self._opened.get(dataset_id)
        if kept is None or kept[0] is not dataset or kept[1] != stamp:
            kept = self._opened[dataset_id] = (dataset, stamp, open_dataset(dataset), source_folder(dataset))
        return kept[2]

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what keeps rows from being read into the learning room's words, which the consumer will read."""
        try:
            yield
        except SourceError as error:
            raise StepFailedError(error.code, self._unplaced(error), final=error.code != _UNREACHABLE) from error
        except (DatasetError, ViewError) as error:
            raise StepFailedError(error.code, self._unplaced(error)) from error
        except OSError as error:
            # Another process tidied up, or a file went away between two looks: the next try says which.
            detail = f"the snapshot could not be made: {error.strerror}"
            raise StepFailedError("snapshot-failed", detail, final=False) from error

    def _unplaced(self, error: Exception) -> str:
        """Return an error's sentence without this machine's paths."""
        text = str(error)
        for source in self._opened.values():
            folder = source[3]
            text = text if folder is None else text.replace(str(folder), "the dataset's folder")
        return text.replace(str(self._root), "the participant's folder")

    def _job_folder(self, job_id: str) -> Path:
        folder = self._place / _job_name(job_id)
        for part in (self._place.parent, self._place, folder):
            part.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    def _build(self, source: "OpenedSource", job: Path, key: str, subjects: frozenset[str]) -> Snapshot:
        from connector.sources.snapshot import build_snapshot  # noqa: PLC0415 - workers only, see _open

        # A folder of one's own (0700), then one rename: two processes may build the same snapshot at once.
        building = Path(tempfile.mkdtemp(prefix=f"{_BUILDING}{key}-", dir=job))
        try:
            made = build_snapshot(source, subjects, self._subject_ref, building / DATA_FILE)
            facts = {
                "rows": made.rows,
                "subjects": made.subjects,
                "train_rows": made.train_rows,
                "learners": made.learners,
            }
            (building / _FACTS_FILE).write_text(json.dumps(facts), encoding="utf-8")
            return _settle(building, job / key)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def _source_mark(source: "OpenedSource") -> str | None:
    fingerprint = source.fingerprint()
    if fingerprint is None:
        return None
    return digest([fingerprint, view_digest(source.view), dict(source.parameters)])


def _key(mark: str, subjects: frozenset[str]) -> str:
    text = "\n".join([mark, *sorted(subjects)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _job_name(job_id: str) -> str:
    return hashlib.sha256(job_id.encode()).hexdigest()[:32]


def _clear(job: Path, *, keep: str) -> None:
    for entry in os.scandir(job):
        if entry.name != keep and not entry.name.startswith(_BUILDING + keep):
            shutil.rmtree(entry.path, ignore_errors=True)


def _found(folder: Path) -> Snapshot | None:
    try:
        facts = json.loads((folder / _FACTS_FILE).read_text(encoding="utf-8"))
        path = folder / DATA_FILE
        learners = tuple(facts.pop("learners"))
        return Snapshot(path=path, learners=learners, **facts) if path.is_file() else None
    except (OSError, ValueError, TypeError, LookupError):
        return None


def _settle(building: Path, target: Path) -> Snapshot:
    """Give a snapshot its name; if another process was quicker with the same one, theirs stays."""
    found = _found(target)
    if found is None:
        with contextlib.suppress(OSError):
            building.rename(target)
        found = _found(target)
    if found is None:
        raise StepFailedError("snapshot-failed", "the snapshot could not be put in its place", final=False)
    return found
