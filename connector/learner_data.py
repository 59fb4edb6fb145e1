"""Learners' rows for the learning room: snapshots of datasets, and the gate that says whose rows a round may read.

Adapters of ``learning.ports.Snapshots`` and ``learning.ports.Gate``. Nothing here is imported with the readers of
files (pyarrow, duckdb) before a snapshot is made, because the API process holds these adapters too.
"""

from connector.datasets.folder import DatasetFolder
from connector.datasets.snapshots import ParticipantSnapshots
from connector.datasets.usage import Agreements, UsageGate

__all__ = ["Agreements", "DatasetFolder", "ParticipantSnapshots", "UsageGate"]
