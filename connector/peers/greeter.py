"""A driver that gets to know the participants whose addresses the configuration names."""

import threading
from collections.abc import Callable, Iterable

import structlog

from connector.identity.errors import UnauthorizedError
from connector.identity.membership import PeerIdentity
from connector.peers.client import PeerUnreachableError

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0


class Greeter:
    """Asks each address for its membership until it answers; participants may start in any order."""

    def __init__(self, addresses: Iterable[str], admit: Callable[[str], PeerIdentity]) -> None:
        """Meet the participants at ``addresses`` with ``admit``."""
        self._addresses = tuple(addresses)
        self._admit = admit
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin in a thread; nothing happens without addresses."""
        if self._addresses:
            self._thread = threading.Thread(target=self._run, name="greeter", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End at once, or after the request that is under way."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        missing, wait = list(self._addresses), _FIRST_WAIT
        while True:
            missing = [address for address in missing if not self._met(address)]
            if not missing or self._stopping.wait(wait):
                return
            wait = min(wait * 2, _LONGEST_WAIT)

    def _met(self, address: str) -> bool:
        if self._stopping.is_set():
            return False
        log = structlog.get_logger("orchard.peers")
        try:
            identity = self._admit(address)
        except (PeerUnreachableError, UnauthorizedError) as error:
            log.info("peer-not-met", address=address, code=error.code)
            return False
        log.info("peer-met", address=address, participant=identity.participant_id)
        return True
