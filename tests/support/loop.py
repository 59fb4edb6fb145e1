"""One event loop for all test clients of this process: to start one costs more than most requests take."""

import contextlib
import functools

from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi.testclient import TestClient

# Never closed: the loop's thread is a daemon and ends with the process.
_OPEN = contextlib.ExitStack()


def share_loop(client: TestClient) -> TestClient:
    """Let ``client`` send its requests through the shared loop; its app's lifespan does not run."""
    client.portal = _portal()
    return client


@functools.cache
def _portal() -> BlockingPortal:
    return _OPEN.enter_context(start_blocking_portal())
