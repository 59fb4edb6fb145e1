"""The webhook sender: tells subscribers of consent events, signed, again and again until they say yes.

The body is JSON; ``Orchard-Signature`` is a detached compact JWS over exactly those bytes (RFC 7515, appendix F) with
this participant's key, which its DID document holds. ``Orchard-Event`` is the event's id, the same on every attempt.
"""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from connector.identity.jws import sign_detached, signing_key
from connector.peers.client import PeerClient, PeerUnreachableError
from connector.storage.webhooks import DEAD, QUEUED, SENT, Delivery, SqlWebhooks
from policies.signing import Signer

_log = structlog.get_logger()

SIGNATURE, EVENT = "Orchard-Signature", "Orchard-Event"
SIGNATURE_TYPE = "orchard-webhook"
MAX_ATTEMPTS = 12
_FIRST_PAUSE = 5.0
_LONGEST_PAUSE = 3600.0
_ATTEMPT = timedelta(minutes=1)
_SECONDS = 10.0
_OK = range(200, 300)
_GONE = 410


class WebhookSender:
    """A thread that sends what is due; one attempt at a time, so that a slow subscriber is nobody's problem but ours."""

    def __init__(
        self,
        webhooks: SqlWebhooks,
        client: PeerClient,
        signer: Signer,
        now: Callable[[], datetime],
        *,
        seconds: float = 1.0,
    ) -> None:
        """Look every ``seconds``; ``client`` must permit the addresses that operators have typed."""
        self._webhooks = webhooks
        self._client = client
        self._key, self._kid = signing_key(signer), signer.kid
        self._now = now
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._loop, name="webhooks", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the attempt under way and end."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=_SECONDS + 1)
        self._client.close()

    def send_due(self) -> int:
        """Try every delivery whose time has come, once; return how many were accepted."""
        return sum(self._attempt(delivery) for delivery in self._webhooks.due(self._now()))

    def _loop(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self.send_due()
            except Exception as error:  # noqa: BLE001 - the database may be away for a while; the sender must outlive it
                _log.warning("webhooks could not be sent", error=type(error).__name__)

    def _attempt(self, delivery: Delivery) -> bool:
        if self._stop.is_set() or not self._webhooks.take(delivery, self._now() + _ATTEMPT):
            return False
        body = delivery.body.encode()
        headers = {
            "content-type": "application/json",
            SIGNATURE: sign_detached(self._key, self._kid, SIGNATURE_TYPE, body),
            EVENT: delivery.event_id,
        }
        status, error = None, None
        try:
            answer = self._client.request(
                "POST", delivery.url, audience=None, content=body, headers=headers, timeout=_SECONDS
            )
            status = answer.status
        except PeerUnreachableError as unreachable:
            error = unreachable.code
        accepted = status in _OK
        attempts = delivery.attempts + 1
        end = SENT if accepted else DEAD if attempts >= MAX_ATTEMPTS or status == _GONE else QUEUED
        self._webhooks.settle(delivery, end, self._now() + pause(attempts), answer=status, error=error)
        if end == DEAD:
            _log.warning("a webhook's delivery was given up", webhook=delivery.webhook_id, attempts=attempts)
        return accepted


def pause(attempts: int) -> timedelta:
    """Return how long to wait after so many attempts: 5 s, doubled each time, an hour at most."""
    return timedelta(seconds=min(_FIRST_PAUSE * 2.0 ** (attempts - 1), _LONGEST_PAUSE))
