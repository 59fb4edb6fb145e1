"""Fixtures every test may ask for by name."""

import os

# One thread per process: the machine is shared by several participants in the larger tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

from tests.support.databases import database, database_url, postgresql_server
from tests.support.participants import data_space

__all__ = ["data_space", "database", "database_url", "postgresql_server"]

# How long an example takes says something about the machine, not about the code.
settings.register_profile("orchard", deadline=None)
settings.load_profile("orchard")
