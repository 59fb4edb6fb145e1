"""Sealing seeds to a seat: HPKE single shot (RFC 9180), X25519 or the hybrid ML-KEM-768 + X25519.

A box is bound, by HPKE's info, to the round's context, the contributor and the seat, so that it opens nowhere else.
Public keys travel raw in base64url; their length tells the suite (32 bytes, or 1184 + 32 bytes for the hybrid).

A member's keys of a job form a chain of epochs. Each is made from the chain's state, and stepping the state on is one
way: what was sealed in an epoch whose state is erased can never be opened again, whoever gets hold of the member later.
"""

import dataclasses
import functools
import hmac
import os
from typing import Literal, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from learning.secagg.errors import BoxError, ErasedKeyError, ParameterError
from learning.secagg.masking import hkdf
from policies.canonical import canonical_json
from policies.signing import SignatureError, decode, encode

SuiteName = Literal["x25519", "mlkem768-x25519"]

_X25519_BYTES, _MLKEM_SEED_BYTES = 32, 64
_OWN_BYTES, _NONCE_BYTES = 16, 12
_CLASSIC = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_128_GCM)
_HYBRID = Suite(KEM.MLKEM768_X25519, KDF.SHAKE256, AEAD.AES_256_GCM)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SealingKey:
    """A seat's private key for one epoch of one job.

    HAZARD: whoever keeps it can open the boxes it recorded; :class:`SealingChain` steps it on and forgets it.
    """

    private_bytes: bytes = dataclasses.field(repr=False)

    @property
    def public_key(self) -> str:
        """The raw public key, base64url."""
        classic, hybrid = self._parts
        raw = classic.public_key().public_bytes_raw()
        return encode(raw if hybrid is None else hybrid.public_key().public_bytes_raw() + raw)

    def open(self, box: bytes, info: bytes) -> bytes:
        """Return what was sealed in ``box`` under ``info``.

        Raises:
            BoxError: the box was not sealed to this key under this info.
        """
        classic, hybrid = self._parts
        try:
            if hybrid is None:
                return _CLASSIC.decrypt(box, classic, info)
            return _HYBRID.decrypt(box, MLKEM768X25519PrivateKey(hybrid, classic), info)
        except (InvalidTag, ValueError) as error:
            raise BoxError("the sealed box does not open") from error

    def keep(self, plain: bytes, name: bytes) -> bytes:
        """Return ``plain`` sealed for this key alone and bound to ``name``: what came out of a box, to be stored.

        AES-128-GCM (SP 800-38D) with a random nonce of 96 bits; it is lost with this key, as the box is.
        """
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._own.encrypt(nonce, plain, name)

    def kept(self, data: bytes, name: bytes) -> bytes:
        """Return what :meth:`keep` sealed; a fiftieth of the cost of opening a box.

        Raises:
            BoxError: this key did not seal it, or under another name.
        """
        try:
            return self._own.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], name)
        except (InvalidTag, ValueError) as error:
            raise BoxError("what was kept of a box does not open") from error

    @functools.cached_property
    def _own(self) -> AESGCM:
        return AESGCM(hkdf(self.private_bytes, b"orchard/secagg/kept/1", _OWN_BYTES))

    @functools.cached_property
    def _parts(self) -> tuple[X25519PrivateKey, MLKEM768PrivateKey | None]:
        classic = X25519PrivateKey.from_private_bytes(self.private_bytes[-_X25519_BYTES:])
        if len(self.private_bytes) == _X25519_BYTES:
            return classic, None
        return classic, MLKEM768PrivateKey.from_seed_bytes(self.private_bytes[:_MLKEM_SEED_BYTES])


LAST_EPOCHS = 64
_CHAIN_BYTES = 32
_SUITES: dict[str, SuiteName] = {"x25519": "x25519", "mlkem768-x25519": "mlkem768-x25519"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SealingChain:
    """The sealing keys of one member in one job, from ``epoch`` on; earlier ones cannot be had from it.

    HAZARD: keep one only, and write the stepped one over it; a copy of an earlier state opens what was to be closed.

    Attributes:
        epoch: the epoch of ``key``.
        state: 32 secret bytes.
        suite: which HPKE suite the keys are for.
    """

    epoch: int
    state: bytes = dataclasses.field(repr=False)
    suite: SuiteName = "x25519"

    @functools.cached_property
    def key(self) -> SealingKey:
        """The private key of this epoch."""
        size = _X25519_BYTES if self.suite == "x25519" else _MLKEM_SEED_BYTES + _X25519_BYTES
        return SealingKey(private_bytes=hkdf(self.state, b"orchard/secagg/sealing/1", size))

    def at(self, epoch: int) -> Self:
        """Return the chain stepped on to ``epoch``.

        Raises:
            ErasedKeyError: that epoch is over, and its key is gone.
        """
        if epoch < self.epoch:
            raise ErasedKeyError(f"the sealing key of epoch {epoch} is erased")
        state = self.state
        for _ in range(epoch - self.epoch):
            state = hmac.digest(state, b"orchard/secagg/step/1", "sha256")
        return dataclasses.replace(self, epoch=epoch, state=state)

    def public_keys(self, epochs: int) -> tuple[str, ...]:
        """Return the public keys of this and the following epochs, ``epochs`` in all: what an approval carries.

        Raises:
            ParameterError: none, or more than 64.
        """
        if not 1 <= epochs <= LAST_EPOCHS:
            raise ParameterError(f"a job has 1 to {LAST_EPOCHS} epochs of sealing keys")
        return tuple(self.at(self.epoch + step).key.public_key for step in range(epochs))

    def to_text(self) -> str:
        """Return the chain as one line for a secret column."""
        return f"{self.suite} {self.epoch} {encode(self.state)}"

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read what :meth:`to_text` wrote.

        Raises:
            ParameterError: the text is not a chain.
        """
        suite, epoch, state = (*text.split(" "), "", "", "")[:3]
        try:
            raw = decode(state)
        except SignatureError as error:
            raise ParameterError("not a chain of sealing keys") from error
        if suite not in _SUITES or not epoch.isdecimal() or len(raw) != _CHAIN_BYTES:
            raise ParameterError("not a chain of sealing keys")
        return cls(epoch=int(epoch), state=raw, suite=_SUITES[suite])


def new_sealing_chain(suite: SuiteName = "x25519") -> SealingChain:
    """Return a chain at epoch 0 from the operating system's generator."""
    return SealingChain(epoch=0, state=os.urandom(_CHAIN_BYTES), suite=suite)


def epoch_of(round: int, rounds: int, epochs: int) -> int:  # noqa: A002 - the protocol's word
    """Return the epoch of a round (from 1) when ``rounds`` rounds are spread over ``epochs`` epochs.

    A round beyond the last one falls into the last epoch.
    """
    return min((max(round, 1) - 1) * epochs // max(rounds, 1), epochs - 1)


def new_sealing_key(suite: SuiteName = "x25519") -> SealingKey:
    """Return a fresh key from the operating system's generator."""
    classic = X25519PrivateKey.generate().private_bytes_raw()
    if suite == "x25519":
        return SealingKey(private_bytes=classic)
    return SealingKey(private_bytes=MLKEM768PrivateKey.generate().private_bytes_raw() + classic)


def seal(plaintext: bytes, public_key: str, info: bytes) -> bytes:
    """Return ``plaintext`` sealed to ``public_key`` under ``info``.

    Raises:
        ParameterError: the text is not a public key of either suite.
    """
    classic, hybrid = _public(public_key)
    try:
        if hybrid is None:
            return _CLASSIC.encrypt(plaintext, classic, info)
        return _HYBRID.encrypt(plaintext, MLKEM768X25519PublicKey(hybrid, classic), info)
    except ValueError as error:
        # A point of low order parses and then gives no shared secret.
        raise ParameterError("not a sealing key") from error


def check_public_key(public_key: str) -> None:
    """Refuse what nothing can be sealed to.

    Raises:
        ParameterError: the text is not a public key of either suite.
    """
    seal(b"", public_key, b"")


def box_info(context_digest: str, contributor: str, seat: str) -> bytes:
    """Return the HPKE info of the box that ``contributor`` seals to the participant ``seat``."""
    value = {"context": context_digest, "contributor": contributor, "seat": seat}
    return b"orchard/secagg/box/1\0" + canonical_json(value)


@functools.lru_cache(maxsize=1024)
def _public(text: str) -> tuple[X25519PublicKey, MLKEM768PublicKey | None]:
    try:
        raw = decode(text)
        if len(raw) == _X25519_BYTES:
            return X25519PublicKey.from_public_bytes(raw), None
        hybrid = MLKEM768PublicKey.from_public_bytes(raw[:-_X25519_BYTES])
        return X25519PublicKey.from_public_bytes(raw[-_X25519_BYTES:]), hybrid
    except (SignatureError, ValueError) as error:
        raise ParameterError("a sealing key has 32 or 1216 bytes, base64url") from error
