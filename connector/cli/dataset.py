"""`orchard dataset`: publish a dataset with its offer and privacy notice, list datasets, take one out of the catalog."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from connector.datasets.publication import Publication, Publisher

app = typer.Typer(help="Offer datasets: publish, list, withdraw.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The participant's folder.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The dataset's name, or its file in DIR/datasets.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command("publish")
def publish(folder: Folder, name: Name, as_json: AsJson = False) -> None:
    """Try a dataset's source out, then publish its offer and its privacy notice."""
    with _publisher(folder) as publisher:
        found = publisher.publish(publisher.folder.named(name))
    if as_json:
        print(json.dumps(_published(found), indent=2))
        return
    print(f"{found.dataset.id} is published: {found.dataset.properties['rowsBand']} rows, {found.facts.shape}.")
    print(f"Offer {found.dataset.offer.id}; privacy notice {found.notice.notice_id}, version {found.notice.version}.")
    print(
        f"For you only: {found.facts.rows} rows of {found.facts.subjects} learners, {found.facts.train_rows} of them"
        " train when everybody consents."
    )


@app.command("list")
def listing(folder: Folder, as_json: AsJson = False) -> None:
    """List the dataset files, and which of them are in the catalog."""
    from connector.datasets.errors import DatasetError

    rows: list[dict[str, Any]] = []
    with _publisher(folder) as publisher:
        for path in publisher.folder.paths():
            try:
                file = publisher.folder.load(path)
            except DatasetError as error:
                rows.append({"name": path.stem, "id": None, "title": None, "published": False, "problem": str(error)})
                continue
            published = publisher.store.dataset(file.id) is not None
            title = file.document.title
            rows.append({"name": file.name, "id": file.id, "title": title, "published": published, "problem": None})
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        state = row["problem"] or ("published" if row["published"] else "not published")
        print(f"{row['name']}\t{state}\t{row['id'] or ''}\t{row['title'] or ''}")
    if not rows:
        print(f"There is no dataset file in {publisher.folder.place}.")


@app.command("withdraw")
def withdraw(folder: Folder, name: Name, as_json: AsJson = False) -> None:
    """Take a dataset out of the catalog; agreements about it and its learners' consents stay."""
    with _publisher(folder) as publisher:
        dataset_id = publisher.folder.id_of(name)
        publisher.withdraw(dataset_id)
    if as_json:
        print(json.dumps({"id": dataset_id, "published": False}))
    else:
        print(f"{dataset_id} is out of the catalog; agreements about it go on until they end.")


@contextmanager
def _publisher(folder: Path) -> "Iterator[Publisher]":
    from datetime import UTC, datetime

    from connector.datasets.desk import open_publisher
    from connector.settings import Settings

    with open_publisher(Settings.load(folder), now=lambda: datetime.now(UTC)) as publisher:
        yield publisher


def _published(found: "Publication") -> dict[str, Any]:
    return {
        "id": found.dataset.id,
        "offer": found.dataset.offer.id,
        "notice": {"id": found.notice.notice_id, "version": found.notice.version},
        "properties": dict(found.dataset.properties),
        "rows": found.facts.rows,
        "subjects": found.facts.subjects,
        "train_rows": found.facts.train_rows,
    }
