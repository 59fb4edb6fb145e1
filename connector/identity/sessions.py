"""Sessions of people at the pages: sealed in a cookie, so that every API process of a participant can read them.

The seal is AES-256-GCM under a key of the participant; the name of the cookie is authenticated with it, so that a cookie
for one purpose never opens as another. Nothing about a person is kept on our side, except for an hour the ids of
sessions that were signed out (by this process).
"""

import dataclasses
import hashlib
import hmac
import json
import secrets
import threading
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from connector.identity.membership import Clock
from policies.signing import SignatureError, Signer, decode, encode

IDLE = timedelta(minutes=30)
AT_MOST = timedelta(hours=8)
# Browsers keep at least 4,096 bytes of a cookie with its name and attributes.
MAX_COOKIE = 3800
_NONCE = 12
_MAX_PLAIN = 64 * 1024


class SessionTooLargeError(Exception):
    """What the sign-in service says of a person does not fit into a cookie; the issuer's to shorten."""

    code = "session-too-large"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Session:
    """A signed-in person.

    Attributes:
        session_id: random; forms are bound to it.
        claims: what the issuer said, as far as the pages need it.
        began_at: when the person signed in.
        seen_at: when the cookie was last sealed.
    """

    session_id: str
    claims: Mapping[str, Any] = dataclasses.field(repr=False)
    began_at: datetime
    seen_at: datetime


class Seal:
    """Seals small JSON objects into text for a cookie, each under its cookie's name, with an end."""

    def __init__(self, key: bytes, now: Clock) -> None:
        """Seal with a 32-byte ``key``."""
        self._cipher = AESGCM(key)
        self._now = now

    def seal(self, name: str, value: Mapping[str, Any], lasts: timedelta) -> str:
        """Return ``value`` as sealed text that opens for ``lasts``.

        Raises:
            SessionTooLargeError: it does not fit into a cookie.
        """
        body = {"value": value, "until": (self._now() + lasts).timestamp()}
        plain = zlib.compress(json.dumps(body, separators=(",", ":")).encode(), 9)
        nonce = secrets.token_bytes(_NONCE)
        text = encode(nonce + self._cipher.encrypt(nonce, plain, name.encode()))
        if len(text) > MAX_COOKIE:
            raise SessionTooLargeError("the sign-in service says more about this person than a session can hold")
        return text

    def open(self, name: str, text: str | None) -> dict[str, Any] | None:
        """Return what was sealed under ``name``; None when it is not ours, was changed, or has ended."""
        if not text or len(text) > MAX_COOKIE:
            return None
        try:
            data = decode(text)
            plain = self._cipher.decrypt(data[:_NONCE], data[_NONCE:], name.encode())
            body = json.loads(zlib.decompressobj().decompress(plain, _MAX_PLAIN))
            return dict(body["value"]) if self._now().timestamp() < body["until"] else None
        except (SignatureError, InvalidTag, ValueError, KeyError, TypeError, zlib.error):
            return None


class Sessions:
    """Opens, renews and ends the sessions of one kind of person. Safe between threads."""

    def __init__(self, seal: Seal, cookie: str, now: Clock) -> None:
        """Keep sessions in the cookie named ``cookie``."""
        self.cookie = cookie
        self._seal = seal
        self._now = now
        self._ended: dict[str, datetime] = {}
        self._lock = threading.Lock()

    def begin(self, claims: Mapping[str, Any]) -> Session:
        """Return a fresh session of a person who has just signed in."""
        now = self._now()
        return Session(session_id=secrets.token_urlsafe(18), claims=dict(claims), began_at=now, seen_at=now)

    def text(self, session: Session) -> str:
        """Return the cookie of a session, good for :data:`IDLE` from now.

        Raises:
            SessionTooLargeError: its claims do not fit.
        """
        value = {
            "id": session.session_id,
            "claims": session.claims,
            "began": session.began_at.timestamp(),
            "seen": self._now().timestamp(),
        }
        return self._seal.seal(self.cookie, value, IDLE)

    def find(self, text: str | None) -> Session | None:
        """Return the session of a cookie; None when there is none, or it has ended."""
        value = self._seal.open(self.cookie, text)
        if value is None:
            return None
        began = datetime.fromtimestamp(value["began"], UTC)
        if self._now() - began >= AT_MOST or value["id"] in self._ended:
            return None
        return Session(
            session_id=value["id"],
            claims=value["claims"],
            began_at=began,
            seen_at=datetime.fromtimestamp(value["seen"], UTC),
        )

    def end(self, session: Session) -> None:
        """Sign a session out: its cookie opens no more here, even if somebody kept a copy."""
        now = self._now()
        with self._lock:
            self._ended = {name: at for name, at in self._ended.items() if now - at < IDLE}
            self._ended[session.session_id] = now


def form_token(session: Session) -> str:
    """Return the token that this session's forms carry: nobody else's page can know it."""
    return hashlib.sha256(f"form\0{session.session_id}".encode()).hexdigest()[:32]


def is_form_token(session: Session, given: str | None) -> bool:
    """Say whether a form carries its session's token."""
    return hmac.compare_digest(form_token(session).encode(), (given or "").encode())


def session_key(signer: Signer) -> bytes:
    """Return the key that seals this participant's cookies; it follows from the participant's own key."""
    return hmac.digest(signer.private_key.private_bytes_raw(), b"orchard/session-key/1", "sha256")
