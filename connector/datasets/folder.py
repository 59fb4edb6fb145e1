"""The folder of dataset files, and the local facts of what was published. Light: the API process asks it too."""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from connector.datasets.document import DatasetFile, load_dataset
from connector.datasets.errors import DatasetError, DatasetUnknownError
from connector.settings import Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalFacts:
    """What a provider knows of a published dataset and does not publish: exact counts.

    ``rows`` are rows of outcomes or answers of responses of everybody, ``train_rows`` those that train.
    """

    dataset_id: str
    name: str
    shape: str
    features: str
    view_digest: str
    rows: int
    subjects: int
    train_rows: int
    published_at: str


class DatasetFolder:
    """Finds this participant's datasets by id or name. A file is read again only when it has changed."""

    def __init__(self, settings: Settings) -> None:
        """Look into ``[catalog] datasets``; facts live in ``state/facts`` of the participant's folder."""
        self._folder = settings.catalog.datasets
        self._facts = settings.folder / "state" / "facts"
        self._public_url = settings.server.public_url
        self._known: dict[Path, tuple[tuple[int, int], DatasetFile]] = {}

    @property
    def place(self) -> Path:
        """Where the dataset files are."""
        return self._folder

    def paths(self) -> tuple[Path, ...]:
        """Return the dataset files, by name."""
        return tuple(sorted(self._folder.glob("*.toml")))

    def load(self, path: Path) -> DatasetFile:
        """Return the dataset in a file; raises as :func:`load_dataset`."""
        try:
            state = path.stat()
        except OSError:
            raise DatasetUnknownError(f"there is no dataset file {path}") from None
        stamp = (state.st_mtime_ns, state.st_size)
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            known = self._known[path] = (stamp, load_dataset(path, self._public_url))
        return known[1]

    def find(self, dataset_id: str) -> DatasetFile:
        """Return the dataset with this id.

        Raises:
            DatasetUnknownError: no file here has it.
            DatasetError: none that can be read has it, and one cannot be read.
        """
        problem: DatasetError | None = None
        for path in self.paths():
            try:
                found = self.load(path)
            except DatasetError as error:
                problem = problem or error
                continue
            if found.id == dataset_id:
                return found
        raise problem or DatasetUnknownError(f"no dataset file here describes {dataset_id}")

    def named(self, name: str) -> DatasetFile:
        """Return the dataset of a name, or of a file in the folder.

        Raises:
            DatasetUnknownError: there is none, or the file lies where workers would not find it.
            DatasetError: the file is malformed.
        """
        given = Path(name)
        inside = self._folder / f"{given.name.removesuffix('.toml')}.toml"
        if given.name == name and inside.is_file():
            return self.load(inside)
        if given.is_file() and given.resolve().parent == self._folder.resolve():
            return self.load(self._folder / given.name)
        if given.is_file():
            raise DatasetUnknownError(f"{name} lies outside {self._folder}: put it there, where the workers look")
        names = ", ".join(path.stem for path in self.paths()) or "none"
        raise DatasetUnknownError(f"there is no dataset {name} in {self._folder} (there: {names})")

    def id_of(self, name: str) -> str:
        """Return the id of a named dataset, also of one whose file is gone or broken but that was published.

        Raises:
            DatasetError: neither its file nor its facts say.
        """
        try:
            return self.named(name).id
        except DatasetError:
            known = [facts for facts in self._all_facts() if facts.name == name.removesuffix(".toml")]
            if not known:
                raise
            return known[0].dataset_id

    def facts(self, dataset_id: str) -> LocalFacts | None:
        """Return the local facts of a published dataset; None when it was never published here."""
        return next((facts for facts in self._all_facts() if facts.dataset_id == dataset_id), None)

    def write_facts(self, facts: LocalFacts) -> Path:
        """Keep local facts in ``state/facts/NAME.json``, readable by this participant only."""
        self._facts.mkdir(parents=True, exist_ok=True, mode=0o700)
        target = self._facts / f"{facts.name}.json"
        partial = target.with_name(target.name + ".partial")
        document: Mapping[str, Any] = dataclasses.asdict(facts)
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123 - a mode from the start
            file.write(json.dumps(document, indent=2) + "\n")
        partial.replace(target)
        return target

    def _all_facts(self) -> Iterator[LocalFacts]:
        for path in sorted(self._facts.glob("*.json")):
            try:
                yield LocalFacts(**json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError):
                # What cannot be read is not known: a plan for it is refused until it is published again.
                continue
