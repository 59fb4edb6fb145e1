"""Request tokens between participants: who sends this request, to whom, once.

``Authorization: Bearer <compact JWS>`` with ``iss = sub`` the sender, ``aud`` the receiver, five minutes of life, a
``jti`` that is accepted once, and the sender's membership credential (``vc``). The receiver needs nothing but its own
configuration to check it. Replays are remembered per process; several API processes each accept a token at most once.
"""

import hashlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from joserfc.jwk import OKPKey

from connector.identity.errors import OverloadedError, UnauthorizedError
from connector.identity.jws import peek, sign_compact, signing_key, verification_key, verify_compact
from connector.identity.membership import (
    SKEW,
    Authority,
    Clock,
    Membership,
    PeerIdentity,
    instant,
    verify_membership,
)
from policies.signing import Signer

REQUEST = "orchard-request+jwt"
LIFETIME = timedelta(minutes=5)
_MEMBERSHIPS_KEPT = 1024
_TOKENS_KEPT = 500_000
_BUCKET = 60


class IdentityIssuer:
    """Signs this participant's outgoing requests. Safe to share between threads."""

    def __init__(self, *, signer: Signer, membership: str, now: Clock) -> None:
        """Take the participant's signer (its ``kid`` is the participant id) and its membership credential."""
        self.participant_id = signer.kid
        self.membership = membership
        self._key = signing_key(signer)
        self._now = now

    def authorization(self, audience: str) -> str:
        """Return the value of an ``Authorization`` header for one request to the participant ``audience``."""
        issued = int(self._now().timestamp())
        claims = {
            "iss": self.participant_id,
            "sub": self.participant_id,
            "aud": audience,
            "iat": issued,
            "exp": issued + int(LIFETIME.total_seconds()),
            "jti": secrets.token_urlsafe(16),
            "vc": self.membership,
        }
        return "Bearer " + sign_compact(self._key, self.participant_id, REQUEST, claims)


class IdentityVerifier:
    """Checks the identity of incoming requests. Safe to share between threads."""

    def __init__(
        self,
        *,
        participant_id: str,
        authority: Authority,
        now: Clock,
        on_verified: Callable[[Membership], None] | None = None,
        tokens_kept: int = _TOKENS_KEPT,
    ) -> None:
        """Check tokens addressed to ``participant_id`` from members of ``authority``'s data space.

        Args:
            participant_id: our own id, the audience that tokens must name.
            authority: whose memberships count.
            now: the clock.
            on_verified: called with every membership that was not seen before, once it has verified.
            tokens_kept: how many unexpired tokens are remembered; beyond that, callers are told to come back.
        """
        self._participant_id = participant_id
        self._authority = authority
        self._now = now
        self._on_verified = on_verified
        self._seen = _SeenTokens(tokens_kept)
        self._memberships: OrderedDict[str, tuple[Membership, OKPKey]] = OrderedDict()
        self._lock = threading.Lock()

    def verify(self, header: str | None) -> PeerIdentity:
        """Return who sent a request with this ``Authorization`` header.

        Raises:
            UnauthorizedError: the header is missing, or anything about the token or membership does not hold.
            OverloadedError: too many tokens are in flight to recognise a repeat.
        """
        token = bearer(header)
        now = self._now()
        credential = peek(token, REQUEST).get("vc")
        if not isinstance(credential, str):
            raise UnauthorizedError("missing-membership", "the token carries no membership credential (vc)")
        membership, key, new = self._membership(credential, now)
        claims = verify_compact(token, key, REQUEST)
        self._check(claims, membership.identity, now)
        if new:
            self._remember(membership, key)
        return membership.identity

    def _check(self, claims: dict[str, Any], identity: PeerIdentity, now: datetime) -> None:
        if not claims.get("iss") == claims.get("sub") == identity.participant_id:
            raise UnauthorizedError("wrong-issuer", "the token's issuer is not the member its credential names")
        if claims.get("aud") != self._participant_id:
            raise UnauthorizedError("wrong-audience", "the token is meant for another participant")
        issued, expires = instant(claims, "iat", now), instant(claims, "exp", now)
        if expires <= now - SKEW:
            raise UnauthorizedError("token-expired", "the token has expired")
        if issued > now + SKEW or expires - issued > LIFETIME:
            raise UnauthorizedError("token-lifetime", "the token is from the future or lives longer than five minutes")
        jti = claims.get("jti")
        if not isinstance(jti, str) or not jti:
            raise UnauthorizedError("malformed-token", "the token has no jti")
        self._seen.accept(identity.participant_id, jti, expires + SKEW, now)

    def _membership(self, credential: str, now: datetime) -> tuple[Membership, OKPKey, bool]:
        with self._lock:
            known = self._memberships.get(credential)
            if known is not None:
                self._memberships.move_to_end(credential)
        if known is not None and known[0].expires > now:
            return *known, False
        membership = verify_membership(credential, self._authority, now)
        return membership, verification_key(membership.identity.public_key), True

    def _remember(self, membership: Membership, key: OKPKey) -> None:
        if self._on_verified is not None:
            self._on_verified(membership)
        with self._lock:
            self._memberships[membership.credential] = (membership, key)
            if len(self._memberships) > _MEMBERSHIPS_KEPT:
                self._memberships.popitem(last=False)


def bearer(header: str | None) -> str:
    """Return the token of an ``Authorization: Bearer`` header value.

    Raises:
        UnauthorizedError: there is none.
    """
    scheme, _, token = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise UnauthorizedError("missing-token", "the request needs an Authorization header with a Bearer token")
    return token.strip()


class _SeenTokens:
    """Token ids by the minute in which they can be forgotten; 8 bytes of a keyed hash each."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._key = secrets.token_bytes(16)
        self._buckets: dict[int, set[bytes]] = {}
        self._count = 0
        self._lock = threading.Lock()

    def accept(self, sender: str, jti: str, forget: datetime, now: datetime) -> None:
        name = hashlib.blake2b(f"{sender}\0{jti}".encode(), key=self._key, digest_size=8).digest()
        bucket, current = int(forget.timestamp()) // _BUCKET, int(now.timestamp()) // _BUCKET
        with self._lock:
            for old in [minute for minute in self._buckets if minute < current]:
                self._count -= len(self._buckets.pop(old))
            if name in self._buckets.get(bucket, ()):
                raise UnauthorizedError("token-replayed", "the token was used before; sign a new one per request")
            if self._count >= self._limit:
                raise OverloadedError("too many requests in the last minutes; try again shortly")
            self._buckets.setdefault(bucket, set()).add(name)
            self._count += 1
