"""One event loop for all test clients of this process: to start one costs more than most requests take."""

import asyncio
import contextlib
import functools
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

# Never closed: the loop's thread is a daemon and ends with the process.
_OPEN = contextlib.ExitStack()


class LoopClient(TestClient):
    """A test client whose requests go through the shared loop; its app's lifespan does not run."""

    def __init__(self, app: ASGIApp, **options: Any) -> None:
        """Take the options of ``TestClient``."""
        super().__init__(_contained(app), **options)
        self.portal = _portal()

    def request(self, *args: Any, **options: Any) -> Any:
        """Send a request; raises what the app raised, be it the end of its process."""
        try:
            return super().request(*args, **options)
        except _ContainedError as contained:
            raise contained.error from None


class _ContainedError(Exception):
    """Carries a BaseException out of the loop, which one in a task would end."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


def _contained(app: ASGIApp) -> ASGIApp:
    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except (Exception, asyncio.CancelledError):
            raise
        except BaseException as error:  # noqa: BLE001 - a simulated death is one, and raised again in the client
            raise _ContainedError(error) from None

    return call


@functools.cache
def _portal() -> BlockingPortal:
    return _OPEN.enter_context(start_blocking_portal())
