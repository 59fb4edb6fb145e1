"""Membership credentials, request tokens and operators' tokens."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from connector.identity.errors import ForbiddenError, IdentityFileError, OverloadedError, UnauthorizedError
from connector.identity.files import read_signer, write_key
from connector.identity.jws import sign_compact, signing_key
from connector.identity.membership import (
    Authority,
    PeerIdentity,
    authority_id,
    did_web,
    issue_membership,
    read_request,
    request_membership,
    verify_membership,
)
from connector.identity.operators import SCOPES, OperatorVerifier
from connector.identity.tokens import REQUEST, IdentityIssuer, IdentityVerifier
from policies.signing import Signer, new_signer

START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def authority_signer() -> Signer:
    unnamed = new_signer("")
    return Signer(kid=authority_id(unnamed.public_key), private_key=unnamed.private_key)


@pytest.fixture(scope="module")
def authority(authority_signer: Signer) -> Authority:
    return Authority(id=authority_signer.kid, public_key=authority_signer.public_key)


def _identity(signer: Signer, address: str = "http://127.0.0.1:8101") -> PeerIdentity:
    return PeerIdentity(
        participant_id=did_web(address),
        name="North School",
        organisation="North",
        address=address,
        public_key=signer.public_key,
        roles=("data-provider",),
    )


def _issuer(authority_signer: Signer, clock: Clock) -> tuple[IdentityIssuer, PeerIdentity]:
    signer = new_signer("did:web:127.0.0.1%3A8101")
    identity = _identity(signer)
    credential = issue_membership(authority_signer, identity, clock(), valid=timedelta(days=1))
    return IdentityIssuer(signer=signer, membership=credential, now=clock), identity


def test_a_did_escapes_the_port_and_keeps_the_path() -> None:
    """The did:web id of an address follows the did:web method, section 3."""
    assert did_web("http://127.0.0.1:8101") == "did:web:127.0.0.1%3A8101"
    assert did_web("https://school.example/orchard") == "did:web:school.example:orchard"


def test_a_member_is_recognised(authority_signer: Signer, authority: Authority, clock: Clock) -> None:
    """A request token made by a member verifies to exactly the identity the authority signed."""
    issuer, identity = _issuer(authority_signer, clock)
    learned: list[PeerIdentity] = []
    verifier = IdentityVerifier(
        participant_id="did:web:b", authority=authority, now=clock, on_verified=lambda one: learned.append(one.identity)
    )
    assert verifier.verify(issuer.authorization("did:web:b")) == identity
    assert verifier.verify(issuer.authorization("did:web:b")) == identity
    assert learned == [identity]


def test_a_token_is_accepted_once(authority_signer: Signer, authority: Authority, clock: Clock) -> None:
    """The same token shown twice is refused the second time."""
    issuer, _ = _issuer(authority_signer, clock)
    verifier = IdentityVerifier(participant_id="did:web:b", authority=authority, now=clock)
    header = issuer.authorization("did:web:b")
    verifier.verify(header)
    with pytest.raises(UnauthorizedError, match="used before"):
        verifier.verify(header)


def test_a_full_memory_of_tokens_refuses_and_recovers(
    authority_signer: Signer, authority: Authority, clock: Clock
) -> None:
    """When more tokens are alive than can be remembered the caller is told to come back, and later can."""
    issuer, identity = _issuer(authority_signer, clock)
    verifier = IdentityVerifier(participant_id="did:web:b", authority=authority, now=clock, tokens_kept=2)
    verifier.verify(issuer.authorization("did:web:b"))
    verifier.verify(issuer.authorization("did:web:b"))
    with pytest.raises(OverloadedError):
        verifier.verify(issuer.authorization("did:web:b"))
    clock.now += timedelta(minutes=8)
    assert verifier.verify(issuer.authorization("did:web:b")) == identity


@pytest.mark.parametrize(("later", "fine"), [(0, True), (355, True), (361, False), (-59, True), (-62, False)])
def test_dates_allow_a_minute_of_skew(
    authority_signer: Signer, authority: Authority, clock: Clock, *, later: int, fine: bool
) -> None:
    """A token lives five minutes, and clocks may differ by one."""
    issuer, _ = _issuer(authority_signer, clock)
    header = issuer.authorization("did:web:b")
    clock.now += timedelta(seconds=later)
    verifier = IdentityVerifier(participant_id="did:web:b", authority=authority, now=clock)
    if fine:
        verifier.verify(header)
    else:
        with pytest.raises(UnauthorizedError):
            verifier.verify(header)


def test_a_token_for_somebody_else_is_refused(authority_signer: Signer, authority: Authority, clock: Clock) -> None:
    """A token cannot be passed on to a third participant."""
    issuer, _ = _issuer(authority_signer, clock)
    verifier = IdentityVerifier(participant_id="did:web:c", authority=authority, now=clock)
    with pytest.raises(UnauthorizedError, match="another participant"):
        verifier.verify(issuer.authorization("did:web:b"))


def test_a_stolen_membership_is_of_no_use(authority_signer: Signer, authority: Authority, clock: Clock) -> None:
    """Whoever shows another's membership without its key is refused."""
    issuer, _ = _issuer(authority_signer, clock)
    thief = IdentityIssuer(signer=new_signer("did:web:127.0.0.1%3A8101"), membership=issuer.membership, now=clock)
    verifier = IdentityVerifier(participant_id="did:web:b", authority=authority, now=clock)
    with pytest.raises(UnauthorizedError):
        verifier.verify(thief.authorization("did:web:b"))


def test_another_authority_does_not_count(authority: Authority, clock: Clock) -> None:
    """A membership signed by an authority we did not configure is refused, even under our authority's name."""
    issuer, _ = _issuer(new_signer(authority.id), clock)
    verifier = IdentityVerifier(participant_id="did:web:b", authority=authority, now=clock)
    with pytest.raises(UnauthorizedError):
        verifier.verify(issuer.authorization("did:web:b"))


def test_a_membership_is_no_request_token(authority_signer: Signer, authority: Authority, clock: Clock) -> None:
    """Tokens are typed: one kind is never taken for another."""
    issuer, _ = _issuer(authority_signer, clock)
    verifier = IdentityVerifier(participant_id="did:web:b", authority=authority, now=clock)
    with pytest.raises(UnauthorizedError):
        verifier.verify("Bearer " + issuer.membership)


def test_an_expired_membership_ends_even_when_remembered(
    authority_signer: Signer, authority: Authority, clock: Clock
) -> None:
    """Remembering a membership does not outlive its expiry."""
    issuer, _ = _issuer(authority_signer, clock)
    verifier = IdentityVerifier(participant_id="did:web:b", authority=authority, now=clock)
    verifier.verify(issuer.authorization("did:web:b"))
    clock.now += timedelta(days=1, minutes=2)
    with pytest.raises(UnauthorizedError, match="membership has expired"):
        verifier.verify(issuer.authorization("did:web:b"))


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer a.b.c", "Bearer é.é.é", "Bearer " + "a" * 20_000, "Bearer ..",
     "Bearer e30.e30.", "Bearer bnVsbA.bnVsbA.bnVsbA", "Bearer eyJhbGciOiJub25lIn0.e30."],
)  # fmt: skip
def test_malformed_headers_are_refused_alike(authority: Authority, clock: Clock, header: str | None) -> None:
    """Whatever the header holds, the answer is UnauthorizedError and never another exception."""
    verifier = IdentityVerifier(participant_id="did:web:b", authority=authority, now=clock)
    with pytest.raises(UnauthorizedError):
        verifier.verify(header)


@pytest.mark.parametrize(
    "change",
    [
        {"jti": None},
        {"jti": 5},
        {"exp": "soon"},
        {"exp": True},
        {"iat": 1e300},
        {"exp": 10**12},
        {"vc": 5},
        {"sub": "x"},
    ],
)
def test_signed_nonsense_is_refused(
    authority_signer: Signer, authority: Authority, clock: Clock, change: dict[str, object]
) -> None:
    """A member's own signature does not make malformed claims acceptable."""
    signer = new_signer("did:web:127.0.0.1%3A8101")
    credential = issue_membership(authority_signer, _identity(signer), clock(), valid=timedelta(days=1))
    stamp = int(clock().timestamp())
    claims = {"iss": signer.kid, "sub": signer.kid, "aud": "did:web:b", "iat": stamp, "exp": stamp + 300, "jti": "1"}
    token = sign_compact(signing_key(signer), signer.kid, REQUEST, {**claims, "vc": credential, **change})
    verifier = IdentityVerifier(participant_id="did:web:b", authority=authority, now=clock)
    with pytest.raises(UnauthorizedError):
        verifier.verify("Bearer " + token)


def test_a_request_for_membership_proves_the_key(authority_signer: Signer, authority: Authority) -> None:
    """A membership request is granted only for a key that its asker holds."""
    signer = new_signer("did:web:127.0.0.1%3A8101")
    identity = _identity(signer)
    asked = read_request(request_membership(signer, identity, START))
    credential = issue_membership(authority_signer, asked, START, valid=timedelta(days=365))
    assert verify_membership(credential, authority, START).identity == identity
    with pytest.raises(UnauthorizedError):
        read_request(request_membership(new_signer(signer.kid), identity, START))


def test_operators_hold_scopes(tmp_path: Path, clock: Clock) -> None:
    """The static token holds every scope, a JWT those it names and what they imply, and nothing else is let in."""
    key = ECKey.generate_key("P-256", {"kid": "1", "use": "sig"})
    (tmp_path / "jwks.json").write_text(json.dumps(KeySet([key]).as_dict(private=False)))
    verifier = OperatorVerifier(
        participant_id="did:web:a", token="t0p", issuer="https://id.example", jwks=tmp_path / "jwks.json", now=clock
    )
    assert verifier.verify("Bearer t0p").scopes == SCOPES
    claims = {"iss": "https://id.example", "aud": ["did:web:a"], "sub": "ada", "exp": START.timestamp() + 60}

    def token(**change: object) -> str:
        return "Bearer " + jwt.encode({"alg": "ES256", "kid": "1"}, {**claims, **change}, key)

    writer = verifier.verify(token(scope="write other"))
    assert (writer.name, writer.scopes) == ("ada", {"write", "read"})
    with pytest.raises(ForbiddenError):
        writer.require("audit")
    for change in ({"iss": "x"}, {"aud": "did:web:b"}, {"exp": START.timestamp() - 61}, {"sub": 1}, {"exp": None}):
        with pytest.raises(UnauthorizedError):
            verifier.verify(token(**change))
    with pytest.raises(UnauthorizedError):
        verifier.verify("Bearer other")


def test_a_key_open_to_others_is_refused(tmp_path: Path) -> None:
    """A private key file must be readable by its owner only, and is never overwritten."""
    path = tmp_path / "identity.key"
    write_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_signer(path, "did:web:a").public_key
    with pytest.raises(IdentityFileError, match="exists already"):
        write_key(path)
    path.chmod(0o644)
    with pytest.raises(IdentityFileError, match="chmod 600"):
        read_signer(path, "did:web:a")
