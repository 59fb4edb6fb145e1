"""Signing people in at an OpenID Connect provider: authorization code with PKCE, state and nonce.

Every endpoint and key is the operator's configuration: nothing is discovered, and nothing is fetched because a message
named it. Sources: OpenID Connect Core 1.0, sections 3.1.2 and 3.1.3; RFC 7636 (PKCE, S256); RFC 9207 (``iss``).
"""

import dataclasses
import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from connector.identity.membership import SKEW, Clock

ALGORITHMS = ["ES256", "Ed25519", "RS256"]
_FORM = "application/x-www-form-urlencoded"
_OK = 200
_MAX_CODE = 4096

# (url, headers, body) -> (status, body); the one HTTP client, which calls that address only.
Exchange = Callable[[str, Mapping[str, str], bytes], tuple[int, bytes]]


class SignInError(Exception):
    """A sign-in that did not come to its end; ``code`` says whose doing it was, the message quotes nothing sent."""

    def __init__(self, code: str, detail: str) -> None:
        """Name the problem: ``refused`` (the person), ``stale`` (an old page), ``provider`` (the sign-in service)."""
        super().__init__(detail)
        self.code = code


@dataclasses.dataclass(frozen=True, kw_only=True)
class Begun:
    """A sign-in on its way: where to send the browser, and what must come back."""

    url: str
    state: str
    nonce: str
    verifier: str = dataclasses.field(repr=False)

    def kept(self) -> dict[str, str]:
        """Return what the browser's sealed cookie keeps until the answer."""
        return {"state": self.state, "nonce": self.nonce, "verifier": self.verifier}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SignedIn:
    """What the provider says: the claims of the ID token, and the access token as it came."""

    claims: Mapping[str, Any] = dataclasses.field(repr=False)
    access_token: str | None = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OidcClient:
    """This participant as a client of one provider. Safe between threads.

    Attributes:
        issuer, authorization_endpoint, token_endpoint, keys: the provider, as the operator typed it.
        client_id, secret: how the provider knows us; without a secret we are a public client.
        redirect_url: where the provider sends the browser back to.
        scope: what is asked for; ``openid`` is part of it.
        exchange: posts the form of the token request.
    """

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    keys: KeySet = dataclasses.field(repr=False)
    client_id: str
    secret: str | None = dataclasses.field(default=None, repr=False)
    redirect_url: str
    scope: str = "openid profile"
    exchange: Exchange
    now: Clock

    def begin(self, language: str | None = None) -> Begun:
        """Return where to send a browser that wants to sign in; ``language`` is how its person reads."""
        # Loaded when somebody signs in: it takes a fifth of a second, which the API's start need not wait for.
        from authlib.oauth2.rfc6749.parameters import prepare_grant_uri  # noqa: PLC0415
        from authlib.oauth2.rfc7636 import create_s256_code_challenge  # noqa: PLC0415

        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        wishes = {"ui_locales": language} if language else {}
        url = prepare_grant_uri(
            self.authorization_endpoint,
            client_id=self.client_id,
            response_type="code",
            redirect_uri=self.redirect_url,
            scope=self.scope,
            state=state,
            nonce=nonce,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
            **wishes,
        )
        return Begun(url=str(url), state=state, nonce=nonce, verifier=verifier)

    def finish(self, kept: Mapping[str, Any] | None, answer: Mapping[str, str]) -> SignedIn:
        """Return who signed in, from the provider's answer in the browser's address and what we kept.

        Raises:
            SignInError: the person or the provider said no, or the answer does not belong to what we began.
        """
        if kept is None or not secrets.compare_digest(str(kept["state"]).encode(), answer.get("state", "").encode()):
            raise SignInError("stale", "this sign-in was not begun in this browser, or too long ago")
        if answer.get("iss", self.issuer) != self.issuer:
            raise SignInError("provider", "the answer comes from another sign-in service")
        if "error" in answer:
            raise SignInError("refused", "the sign-in service did not sign this person in")
        code = answer.get("code", "")
        if not 0 < len(code) <= _MAX_CODE:
            raise SignInError("provider", "the sign-in service sent no code")
        tokens = self._tokens(code, str(kept["verifier"]))
        access = tokens.get("access_token")
        claims = self._claims(tokens.get("id_token"), str(kept["nonce"]), access)
        return SignedIn(claims=claims, access_token=access if isinstance(access, str) else None)

    def _tokens(self, code: str, verifier: str) -> Mapping[str, Any]:
        from authlib.oauth2.auth import ClientAuth  # noqa: PLC0415 - see begin
        from authlib.oauth2.rfc6749.parameters import prepare_token_request  # noqa: PLC0415

        body = prepare_token_request(
            "authorization_code", redirect_uri=self.redirect_url, code=code, code_verifier=verifier
        )
        method = "client_secret_basic" if self.secret else "none"
        auth = ClientAuth(self.client_id, self.secret, method)
        url, headers, body = auth.prepare("POST", self.token_endpoint, {"Content-Type": _FORM}, body)
        status, raw = self.exchange(url, headers, body.encode())
        try:
            tokens = json.loads(raw)
        except ValueError as error:
            raise SignInError("provider", "the sign-in service answered with something else than JSON") from error
        if status != _OK or not isinstance(tokens, dict):
            raise SignInError("provider", f"the sign-in service answered {status} to the code it had sent")
        return tokens

    def _claims(self, token: object, nonce: str, access_token: object) -> dict[str, Any]:
        from authlib.oidc.core import CodeIDToken  # noqa: PLC0415 - see begin

        try:
            found = jwt.decode(str(token), self.keys, algorithms=ALGORITHMS)
            checked = CodeIDToken(
                dict(found.claims),
                dict(found.header),
                options={
                    "iss": {"essential": True, "value": self.issuer},
                    "aud": {"essential": True, "value": self.client_id},
                },
                params={"nonce": nonce, "client_id": self.client_id, "access_token": access_token},
            )
            checked.validate(now=int(self.now().timestamp()), leeway=int(SKEW.total_seconds()))
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise SignInError("provider", "the sign-in service's statement does not verify") from error
        return dict(found.claims)
