"""Open a dataset's source. Imports the readers of files (pyarrow, duckdb), so only workers and commands come here."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from connector.datasets.document import DatasetFile
from connector.datasets.errors import DatasetError
from connector.identity.errors import IdentityFileError
from connector.identity.files import read_secret
from connector.peers.client import PeerClient, below
from connector.sources.opened import OpenedSource, open_source
from connector.sources.providers import bundled_views, load_view
from connector.sources.source import Fetch, Location
from learning.views import FeatureView, ViewError


def dataset_view(dataset: DatasetFile) -> FeatureView:
    """Return the dataset's view: a file beside it, or a bundled view by its name.

    Raises:
        ViewError: there is no such view, or it is malformed.
    """
    given = dataset.document.view
    bundled = {path.stem: path for path in bundled_views()}
    own = dataset.path.parent / given
    return load_view(bundled[given] if given in bundled and not own.is_file() else own)


def source_folder(dataset: DatasetFile) -> Path | None:
    """Return the folder that the source's files are below, absolute; None for a database or a record store."""
    folder = dataset.document.location.folder
    return None if folder is None else Path(os.path.normpath(dataset.beside(folder)))


def open_dataset(dataset: DatasetFile) -> OpenedSource:
    """Return the dataset's source; nothing is read yet.

    Raises:
        ViewError: the view is malformed, or its parameters are not the ones given.
        DatasetError: a secret file cannot be used.
    """
    spec = dataset.document.location
    try:
        connection = (
            spec.connection if spec.connection_file is None else read_secret(dataset.beside(spec.connection_file))
        )
        secret = None if spec.credential is None else read_secret(dataset.beside(spec.credential))
    except IdentityFileError as error:
        raise DatasetError(f"{dataset.path.name}: {error}") from None
    location = Location(
        folder=source_folder(dataset),
        parameters=spec.parameters,
        connection=connection,
        credential=None if secret is None else _credential(dataset, secret),
        fetch=None if connection is None or not connection.startswith("http") else _fetch(connection),
    )
    try:
        return open_source(dataset_view(dataset), location)
    except ViewError as error:
        raise ViewError(f"{dataset.path.name}: {error}") from None


class _Nobody:
    """Signs nothing: a record store is no participant."""

    def authorization(self, audience: str) -> str:
        """Refuse to make a participant's header."""
        raise DatasetError(f"a record store is called without a participant's identity, not as {audience}")


def _fetch(connection: str) -> Fetch:
    """Return a GET that reaches nothing but the record store's own host: its next pages may lie beside its base."""
    parts = urlsplit(connection)
    origin = f"{parts.scheme}://{parts.netloc}"
    client = PeerClient(issuer=_Nobody(), permits=lambda url: below(url, origin))

    def fetch(url: str, headers: Mapping[str, str]) -> Mapping[str, Any]:
        found = client.fetch_json(url, headers=headers)
        if not isinstance(found, dict):
            raise DatasetError("the record store answered with something other than a JSON object")
        return found

    return fetch


def _credential(dataset: DatasetFile, secret: str) -> tuple[str, str]:
    user, sign, password = secret.partition(":")
    if not sign:
        raise DatasetError(f"{dataset.path.name}: the credential file holds no user:password")
    return user, password


def view_stamp(dataset: DatasetFile) -> int:
    """Return when the dataset's view file last changed; 0 for a bundled view, which does not."""
    own = dataset.path.parent / dataset.document.view
    return own.stat().st_mtime_ns if own.is_file() else 0
