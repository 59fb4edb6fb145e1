"""Fixtures every test may ask for by name."""

import logging
import os

# One thread per process: the machine is shared by several participants in the larger tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import structlog
from hypothesis import settings

from tests.support.databases import database, database_url, postgresql_server
from tests.support.participants import data_space

__all__ = ["data_space", "database", "database_url", "postgresql_server"]

# A line for every request would bury what a failing test has to say.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))

# How long an example takes says something about the machine, not about the code.
settings.register_profile("orchard", deadline=None)
settings.load_profile("orchard")
