"""Which peers answer: one that is silent is left alone for a while with everything we have for it, not per message.

Kept in memory: after a restart everybody is trusted again, and a peer that is still silent costs a few time-outs.
"""

import dataclasses
import threading
from datetime import datetime, timedelta


@dataclasses.dataclass(kw_only=True)
class _Standing:
    silences: int = 0
    quiet_until: datetime | None = None


class PeerStandings:
    """How peers have answered lately, by participant id. Safe between threads."""

    def __init__(
        self,
        *,
        first_seconds: float = 0.1,
        longest_seconds: float = 30.0,
        slow_seconds: float = 2.0,
        most: int = 10_000,
    ) -> None:
        """Leave a silent peer alone for ``first_seconds``, doubled per silence up to ``longest_seconds``.

        A peer that takes longer than ``slow_seconds`` to answer is in trouble, too, but is not left alone. At most
        ``most`` peers in trouble are remembered.
        """
        self._first = first_seconds
        self._longest = longest_seconds
        self._slow = timedelta(seconds=slow_seconds)
        self._most = most
        self._troubled: dict[str, _Standing] = {}
        self._lock = threading.Lock()

    def in_trouble(self, peer: str) -> bool:
        """Return whether the peer's last answer was slow or did not come."""
        return peer in self._troubled

    def quiet_until(self, peer: str, now: datetime) -> datetime | None:
        """Return until when the peer is left alone, ``None`` when it may be called."""
        found = self._troubled.get(peer)
        return found.quiet_until if found and found.quiet_until and found.quiet_until > now else None

    def answered(self, peer: str, took: timedelta) -> None:
        """Note an answer, whatever it said, and how long it took."""
        if took < self._slow:
            if peer in self._troubled:
                with self._lock:
                    self._troubled.pop(peer, None)
            return
        with self._lock:
            self._remember(peer, _Standing())

    def silent(self, peer: str, now: datetime) -> datetime | None:
        """Note that no usable answer came; returns until when the peer is left alone, if that is news."""
        with self._lock:
            found = self._troubled.get(peer) or _Standing()
            if found.quiet_until is not None and found.quiet_until > now:
                # One of several calls that were under way at once: one silence, not several.
                return None
            pause = min(self._longest, self._first * 2.0 ** min(found.silences, 30))
            until = now + timedelta(seconds=pause)
            self._remember(peer, _Standing(silences=found.silences + 1, quiet_until=until))
            return until

    def _remember(self, peer: str, standing: _Standing) -> None:
        self._troubled[peer] = standing
        if len(self._troubled) > self._most:
            self._troubled.pop(next(iter(self._troubled)))
