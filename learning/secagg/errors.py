"""What can go wrong in secure aggregation, and whose fault it is.

Every error carries a stable ``code``, the side at ``fault`` (``ours``, ``peer`` or ``world``) and, where a message of
another party caused it, the ``sender``. Texts name ids, counts and limits; never values, seeds or vectors.
"""

from typing import ClassVar, Literal

Fault = Literal["ours", "peer", "world"]


class SecureAggregationError(Exception):
    """The root of this room's errors."""

    code: ClassVar[str] = "secagg"
    fault: ClassVar[Fault] = "peer"

    def __init__(self, message: str, *, sender: str | None = None) -> None:
        """Keep ``sender``, the participant or contributor id whose message was refused (None: nobody's)."""
        super().__init__(message if sender is None else f"{sender}: {message}")
        self.sender = sender


class ParameterError(SecureAggregationError):
    """The caller asked for something that the protocol does not define."""

    code = "secagg-parameter"
    fault = "ours"


class ValueRangeError(SecureAggregationError):
    """A value is NaN, infinite, not a whole number where one is due, or outside its section's bound."""

    code = "secagg-value-range"
    fault = "ours"


class WrapGuardError(SecureAggregationError):
    """The sum of this many contributions could leave the ring."""

    code = "secagg-wrap-guard"
    fault = "ours"


class SumRangeError(SecureAggregationError):
    """The sum is larger than its contributions can be: somebody sent a wrong share or an over-range vector."""

    code = "secagg-sum-range"


class PlacementError(SecureAggregationError):
    """Seats cannot be placed, or the seats named are not those that the beacon gives."""

    code = "secagg-placement"


class BeaconError(SecureAggregationError):
    """A beacon reveal is missing or does not open its commitment."""

    code = "secagg-beacon"


class ManifestError(SecureAggregationError):
    """The manifest is malformed, unsigned, expired or does not recompute."""

    code = "secagg-manifest"


class HeaderError(SecureAggregationError):
    """An upload header is malformed or its signature does not verify."""

    code = "secagg-header"


class ContextMismatchError(SecureAggregationError):
    """A message belongs to another job, plan, model, round or attempt (a replay, or a split view)."""

    code = "secagg-context"


class UnknownContributorError(SecureAggregationError):
    """The header's signer is not a member of this job, or the contributor is not the signer's."""

    code = "secagg-unknown-contributor"


class DuplicateUploadError(SecureAggregationError):
    """A contributor spoke twice in one attempt with different bytes; both headers are evidence."""

    code = "secagg-duplicate-upload"


class VectorError(SecureAggregationError):
    """A vector has the wrong length, the wrong padding or not the promised digest."""

    code = "secagg-vector"


class BoxError(SecureAggregationError):
    """A sealed box does not have its promised digest, does not open, or holds the wrong number of seeds."""

    code = "secagg-box"


class ErasedKeyError(SecureAggregationError):
    """The sealing key of an epoch that is over was asked for; nobody has it any more."""

    code = "secagg-erased-key"
    fault = "ours"


class SeedCommitmentError(SecureAggregationError):
    """A seed does not match the commitment that the contributor signed (equivocated seeds)."""

    code = "secagg-seed-commitment"


class SetError(SecureAggregationError):
    """A proposed contributor set is malformed, too small, or names an upload that this seat does not hold."""

    code = "secagg-set"


class CohortFloorError(SetError):
    """The proposed set has fewer contributors than the floor."""

    code = "secagg-cohort-floor"


class SecondSetError(SecureAggregationError):
    """This seat has signed another set for the round."""

    code = "secagg-second-set"


class QuorumError(SecureAggregationError):
    """Too few valid signatures on this set, or a signature that is not a seat's."""

    code = "secagg-quorum"


class SecondReleaseError(SecureAggregationError):
    """This seat has released its share; only duties of newly lost seats can still be asked for."""

    code = "secagg-second-release"


class SeatsLostError(SecureAggregationError):
    """So many seats are lost that some seed or some carried vector has no holder left."""

    code = "secagg-seats-lost"
    fault = "world"


class ReplacementError(SecureAggregationError):
    """A seat was to be replaced by somebody who is not next in the ring, or in the middle of an open round's signing."""

    code = "secagg-replacement"


class EvidenceError(SecureAggregationError):
    """A document does not prove what it says it proves."""

    code = "secagg-evidence"


class ShareError(SecureAggregationError):
    """A seat's share is malformed, unsigned, of another set, or does not have its promised digest."""

    code = "secagg-share"
