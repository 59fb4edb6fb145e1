"""Numbers and protocol facts in words: units, the comparison's rows, and who could see what."""

from collections.abc import Mapping
from typing import Any, Final

DASH: Final = "\u2013"
METRICS: Final = {
    "auc": "AUC, pooled",
    "macro_auc": "AUC, mean of providers",
    "small_macro_auc": "AUC, mean of small ones",
    "accuracy": "Accuracy",
    "loss": "Log loss",
    "brier": "Brier score",
    "ece": "Calibration error",
}
SHORT: Final = {"auc": "AUC", "accuracy": "Accuracy", "loss": "Log loss"}
LOWER_IS_BETTER: Final = frozenset({"loss", "brier", "ece"})
_THOUSAND, _TEN = 1000.0, 10.0


def metric(value: float | None) -> str:
    """Return a metric with three decimals, or a dash."""
    return DASH if value is None else f"{value:.3f}"


def size(count: float) -> str:
    """Return a number of bytes in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < _THOUSAND:
            return f"{count:.0f} {unit}" if unit == "B" or count >= _TEN else f"{count:.1f} {unit}"
        count /= _THOUSAND
    return f"{count:.1f} TB"


def seconds(value: float) -> str:
    """Return a time for people."""
    if value >= 2 * 3600:
        return f"{value / 3600:.1f} h"
    if value >= 2 * 60:
        return f"{value / 60:.1f} min"
    return f"{value:.1f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def mode(aggregation: Mapping[str, Any]) -> str:
    """Return the aggregation in words."""
    if aggregation["mode"] == "clear":
        return "clear: updates are not masked (the contracts allow it)"
    seats, threshold = aggregation["seats"], aggregation["threshold"]
    quorum = f"; {aggregation['quorum']} of {seats} signatures fix who is in a sum" if aggregation.get("quorum") else ""
    form = f"star of {seats} seats"
    if aggregation["mode"] == "tree":
        groups, leaves = aggregation["groups"], aggregation["leaves"]
        form = f"tree of {groups} groups of {seats} seats, {leaves} of them leaf groups"
    each = " of a group" if aggregation["mode"] == "tree" else ""
    learn = f"up to {threshold} colluding seat{'s'[: threshold != 1]}{each} learn nothing"
    return f"secure sums, {form}{quorum}; {learn}"


def sums(aggregation: Mapping[str, Any]) -> str:
    """Return how numbers over all providers were added up."""
    return "sums at the collector" if aggregation["mode"] == "clear" else "secure sums"


def ai_provider_sees(aggregation: Mapping[str, Any]) -> str:
    """Return what the owner of the algorithm could see of the providers' updates."""
    if aggregation["mode"] == "clear":
        return "each provider's update and sums; never a row"
    fewest = aggregation.get("n_min") or 2
    if aggregation.get("granularity") == "learner":
        return (
            f"one sum per round over learners, at least {fewest} in each leaf group; never one learner's update or rows"
        )
    return f"one sum per round over at least {fewest} providers; never one provider's update, metrics or rows"


def seat_sees(aggregation: Mapping[str, Any]) -> str:
    """Return what a holder of a seat could see of other providers' updates."""
    if aggregation["mode"] == "clear":
        return "nothing: there are no seats"
    return "masked updates that look random, and its own share of their sum"


def differential_privacy(payload: Mapping[str, Any]) -> str:
    """Return the differential-privacy guarantee in words."""
    return str(payload.get("privacy", {}).get("differential_privacy") or "none yet: the sums carry no noise")
