"""Tables of the catalogs that peers have shown us: how each was last read, its pages, its datasets.

Times are whole microseconds since 1970 UTC. A dataset's place is (participant, page, place on it), as the peer served
it, so that a page is replaced without looking at any other.
"""

from sqlalchemy import BigInteger, Column, Index, Integer, String, Table, Text

from connector.storage.database import metadata

_PARTICIPANT = String(255)

peer_catalogs = Table(
    "dsp_peer_catalogs",
    metadata,
    Column("participant_id", _PARTICIPANT, primary_key=True),
    Column("attempted_at", BigInteger),
    Column("succeeded_at", BigInteger),
    Column("due_at", BigInteger, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("code", String(64)),
    Column("problem", Text),
    Column("pages", Integer, nullable=False),
    Column("datasets", Integer, nullable=False),
    Index("ix_dsp_peer_catalogs_due", "due_at"),
)

peer_catalog_pages = Table(
    "dsp_peer_catalog_pages",
    metadata,
    Column("participant_id", _PARTICIPANT, primary_key=True),
    Column("page", Integer, primary_key=True),
    Column("url", Text, nullable=False),
    Column("etag", Text),
    Column("following", Text),
)

peer_catalog_datasets = Table(
    "dsp_peer_catalog_datasets",
    metadata,
    Column("participant_id", _PARTICIPANT, primary_key=True),
    Column("page", Integer, primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("dataset_id", String(2048), nullable=False),
    Column("formats", Text, nullable=False),
    Column("words", Text, nullable=False),
    Column("body", Text, nullable=False),
    Index("ix_dsp_peer_catalog_datasets_id", "dataset_id"),
)
