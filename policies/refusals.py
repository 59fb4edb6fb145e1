"""What no policy can allow, whatever it says.

Inferring emotions of a person in education is forbidden by the AI Act, Regulation (EU) 2024/1689, article 5(1)(f).
"""

import functools
from collections.abc import Mapping

from policies.decision import Reason, Truth
from policies.model import ORCHARD

_FACTS = ("algorithm_class", "purpose", "output_kind", "infers")
_WORDS = ("emotionrecognition", "emotioninference", "emotiondetection", "affectrecognition", "emotionalstate")


def legal_refusals(facts: Mapping[str, object]) -> tuple[Reason, ...]:
    """Return why the law forbids the use, empty when it does not.

    A name is refused by its last part, in any vocabulary: ``https://example.org/x#EmotionRecognition`` too.
    """
    return tuple(
        Reason(
            rule="law",
            operand=ORCHARD + key,
            operator="",
            fact=name,
            required=(),
            truth=Truth.VIOLATED,
            kind=None,
            code="emotion-inference",
        )
        for key in _FACTS
        for name in _texts(facts.get(key))
        if _infers_emotion(name)
    )


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, (list, tuple, set, frozenset)):
        return sorted(item for item in value if isinstance(item, str))
    return []


@functools.lru_cache(maxsize=1024)
def _infers_emotion(name: str) -> bool:
    plain = "".join(character for character in name.casefold() if character.isalnum())
    return any(word in plain for word in _WORDS)
