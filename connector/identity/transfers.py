"""Transfer tokens: what a provider puts into the data address of a started transfer process.

A token is a compact JWS that the provider signs for itself to check later. It is bound to agreement, plan and consumer,
and it opens nothing without the consumer's own request token beside it, so that a leaked one is worth nothing.
"""

import dataclasses
from datetime import timedelta

from connector.identity.errors import UnauthorizedError
from connector.identity.jws import sign_compact, signing_key, verification_key, verify_compact
from connector.identity.membership import Clock
from policies.signing import Signer

KIND = "orchard-transfer+jwt"
LIFETIME = timedelta(minutes=15)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferGrant:
    """What a transfer token says. ``transfer_pid`` is the provider's own id of the process."""

    transfer_pid: str
    agreement_id: str
    plan_digest: str
    consumer: str


class TransferTokens:
    """Issues and checks the transfer tokens of one provider."""

    def __init__(self, *, signer: Signer, now: Clock) -> None:
        """Sign with the participant's key."""
        self._participant_id = signer.kid
        self._private = signing_key(signer)
        self._public = verification_key(signer.public_key)
        self._now = now

    def issue(self, grant: TransferGrant) -> str:
        """Return a token that is good for fifteen minutes."""
        now = int(self._now().timestamp())
        claims = {
            "iss": self._participant_id,
            "sub": grant.consumer,
            "transfer": grant.transfer_pid,
            "agreement": grant.agreement_id,
            "plan": grant.plan_digest,
            "iat": now,
            "exp": now + int(LIFETIME.total_seconds()),
        }
        return sign_compact(self._private, self._participant_id, KIND, claims)

    def check(self, token: str | None, consumer: str, *, expired: bool = False) -> TransferGrant:
        """Return what a token grants to ``consumer``; ``expired`` accepts one that only needs renewing.

        Raises:
            UnauthorizedError: no token, not ours, another consumer's, or too old.
        """
        if not token:
            raise UnauthorizedError(
                "transfer-token-missing", "the request needs the transfer's token (Orchard-Transfer)"
            )
        claims = verify_compact(token, self._public, KIND)
        if claims.get("iss") != self._participant_id or claims.get("sub") != consumer:
            raise UnauthorizedError("transfer-token-foreign", "the transfer token was given to somebody else")
        expires = claims.get("exp")
        if not isinstance(expires, int) or (expires <= self._now().timestamp() and not expired):
            raise UnauthorizedError("transfer-token-expired", "the transfer token has expired; renew it")
        return TransferGrant(
            transfer_pid=str(claims.get("transfer")),
            agreement_id=str(claims.get("agreement")),
            plan_digest=str(claims.get("plan")),
            consumer=consumer,
        )
