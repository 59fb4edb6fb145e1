"""Which purpose is a kind of which, and which place lies in which: two small trees we can vouch for.

Purposes follow the W3C Data Privacy Vocabulary 2.3 (purposes taxonomy), the branch that education and research meet,
and add our own leaves below it. Anything outside the tree is unknown, never "not a kind of".
"""

from policies.decision import Truth
from policies.model import DPV, ORCHARD

_PURPOSES: dict[str, str | None] = {
    DPV + "Purpose": None,
    DPV + "ResearchAndDevelopment": DPV + "Purpose",
    DPV + "AcademicResearch": DPV + "ResearchAndDevelopment",
    DPV + "ScientificResearch": DPV + "ResearchAndDevelopment",
    DPV + "CommercialResearch": DPV + "ResearchAndDevelopment",
    DPV + "NonCommercialResearch": DPV + "ResearchAndDevelopment",
    DPV + "Marketing": DPV + "Purpose",
    DPV + "Advertising": DPV + "Marketing",
    DPV + "PersonalisedAdvertising": DPV + "Advertising",
    DPV + "TargetedAdvertising": DPV + "PersonalisedAdvertising",
    DPV + "DirectMarketing": DPV + "Marketing",
    DPV + "PublicRelations": DPV + "Marketing",
    DPV + "SocialMediaMarketing": DPV + "Marketing",
    DPV + "Personalisation": DPV + "Purpose",
    DPV + "ServicePersonalisation": DPV + "Personalisation",
    DPV + "ServiceProvision": DPV + "Purpose",
    DPV + "ServiceOptimisation": DPV + "ServiceProvision",
    DPV + "HumanResourceManagement": DPV + "Purpose",
    DPV + "EnforceSecurity": DPV + "Purpose",
    # Ours: the uses of learners' data that this connector is built for.
    ORCHARD + "LearningSupport": DPV + "ServiceProvision",
    ORCHARD + "KnowledgeTracing": ORCHARD + "LearningSupport",
    ORCHARD + "DropoutPrevention": ORCHARD + "LearningSupport",
    ORCHARD + "LearningAnalyticsResearch": DPV + "AcademicResearch",
}

_EU = "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK"
_PLACES: dict[str, str | None] = {
    "WORLD": None,
    "EEA": "WORLD",
    "EU": "EEA",
    **dict.fromkeys(_EU.split(), "EU"),
    **dict.fromkeys(["IS", "LI", "NO"], "EEA"),
    **dict.fromkeys(["AU", "CA", "CH", "GB", "IN", "JP", "NZ", "US"], "WORLD"),
}


def purpose_is_a(narrow: str, broad: str) -> Truth:
    """Say whether one purpose is another or a kind of it; unknown when a name is outside the tree."""
    return _below(_PURPOSES, narrow, broad)


def place_is_in(narrow: str, broad: str) -> Truth:
    """Say whether one place (ISO 3166 code, ``EU``, ``EEA`` or ``WORLD``) lies in another."""
    return _below(_PLACES, narrow.upper(), broad.upper())


def _below(tree: dict[str, str | None], narrow: str, broad: str) -> Truth:
    if narrow == broad:
        return Truth.SATISFIED
    if narrow not in tree or broad not in tree:
        return Truth.UNKNOWN
    name: str | None = narrow
    while name is not None:
        if name == broad:
            return Truth.SATISFIED
        name = tree[name]
    return Truth.VIOLATED
