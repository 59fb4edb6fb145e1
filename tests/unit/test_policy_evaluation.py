"""The decision procedure: every operator, every join, what is unknown, what is deferred, who wins."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.decision import Decision, Verdict, describe
from policies.errors import PolicyFormatError
from policies.evaluate import TRAIN, evaluate, required_facts
from policies.gate import PolicyGate, requirements
from policies.model import DPV, ODRL, ORCHARD
from policies.operands import REGISTRY
from policies.parse import MAX_CONSTRAINTS, MAX_RULES, parse_policy
from policies.scopes import Scope
from policies.templates import fill_template, template_names

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
FLOOR = ORCHARD + "cohortFloor"
CONSENT = ORCHARD + "consent"
RESEARCH = DPV + "AcademicResearch"


def atom(left: str, operator: str, right: Any) -> dict[str, Any]:
    """Return an atomic constraint."""
    return {"leftOperand": left, "operator": operator, "rightOperand": right}


def offer(*constraints: dict[str, Any], **parts: Any) -> dict[str, Any]:
    """Return an offer with one permission."""
    return {
        "@id": "urn:offer:1",
        "@type": "Offer",
        "permission": [{"action": "use", "constraint": list(constraints)}],
        **parts,
    }


def decide(document: dict[str, Any], scope: Scope = Scope.ROUND, action: str = TRAIN, **facts: Any) -> Decision:
    """Evaluate a document."""
    return evaluate(parse_policy(document), facts, scope, NOW, action=action)


YES, NO = True, False


@pytest.mark.parametrize(
    ("constraint", "facts", "allowed"),
    [
        (atom("purpose", "eq", RESEARCH), {"purpose": RESEARCH}, YES),
        (atom("purpose", "eq", RESEARCH), {"purpose": DPV + "Marketing"}, NO),
        (atom("odrl:purpose", "odrl:eq", {"@id": RESEARCH}), {"purpose": RESEARCH}, YES),
        (atom("purpose", "eq", DPV + "ResearchAndDevelopment"), {"purpose": RESEARCH}, NO),
        (atom("purpose", "isA", DPV + "ResearchAndDevelopment"), {"purpose": RESEARCH}, YES),
        (atom("purpose", "isA", RESEARCH), {"purpose": DPV + "ResearchAndDevelopment"}, NO),
        (atom("purpose", "isA", RESEARCH), {"purpose": "urn:my:own"}, NO),
        (atom("purpose", "isAnyOf", [RESEARCH, DPV + "Marketing"]), {"purpose": RESEARCH}, YES),
        (atom("purpose", "neq", DPV + "Marketing"), {"purpose": DPV + "DirectMarketing"}, NO),
        (atom("purpose", "isNoneOf", [DPV + "Marketing"]), {"purpose": RESEARCH}, YES),
        (atom("purpose", "gt", RESEARCH), {"purpose": RESEARCH}, NO),
        (atom("purpose", "eq", RESEARCH), {}, NO),
        (atom("purpose", "eq", RESEARCH), {"purpose": [RESEARCH]}, NO),
        (atom("dateTime", "lteq", "2026-12-31T00:00:00Z"), {}, YES),
        (atom("dateTime", "lt", {"@value": "2026-01-01", "@type": "xsd:date"}), {}, NO),
        (atom("dateTime", "gteq", "2026-11-21T14:00:00+02:00"), {}, YES),
        (atom("dateTime", "lteq", "tomorrow"), {}, NO),
        (atom(CONSENT, "eq", "granted"), {"consent": "granted"}, YES),
        (atom(CONSENT, "eq", "granted"), {"consent": "withdrawn"}, NO),
        (atom(CONSENT, "eq", "granted"), {}, NO),
        (atom(FLOOR, "gteq", 10), {"cohort_size": 10}, YES),
        (atom(FLOOR, "gteq", "10"), {"cohort_size": 9}, NO),
        (atom(FLOOR, "gt", 10), {"cohort_size": 10}, NO),
        (atom(FLOOR, "gteq", "ten"), {"cohort_size": 100}, NO),
        (atom(FLOOR, "gteq", "nan"), {"cohort_size": 100}, NO),
        (atom(FLOOR, "gteq", True), {"cohort_size": 100}, NO),
        (atom("elapsedTime", "lteq", "P30D"), {"agreed_at": NOW - timedelta(days=29)}, YES),
        (atom("elapsedTime", "lteq", "P30D"), {"agreed_at": NOW - timedelta(days=31)}, NO),
        (atom("elapsedTime", "lteq", "P30D"), {"agreed_at": datetime(2026, 11, 1)}, NO),  # noqa: DTZ001 - naive is the point
        (atom("timeInterval", "gteq", "PT1H"), {"last_used_at": NOW - timedelta(hours=2)}, YES),
        (atom("count", "lteq", 3), {"use_count": 3}, YES),
        (atom("count", "lteq", 3), {"use_count": 4}, NO),
        (atom("payAmount", "gteq", 5.5), {"paid_amount": 5.5}, YES),
        (atom("spatial", "isPartOf", "EU"), {"spatial": "de"}, YES),
        (atom("spatial", "isPartOf", "EU"), {"spatial": "US"}, NO),
        (atom("recipient", "isAnyOf", ["did:web:a", "did:web:b"]), {"assignee": "did:web:a"}, YES),
        (atom("recipient", "isNoneOf", ["did:web:a"]), {"assignee": "did:web:a"}, NO),
        (atom(ORCHARD + "role", "hasPart", "ai-provider"), {"roles": ["ai-provider", "x"]}, YES),
        (atom(ORCHARD + "role", "isAllOf", ["a", "b"]), {"roles": ["a"]}, NO),
        (atom(ORCHARD + "privacyBudget", "term-lteq", 8), {"epsilon_spent": 3.5}, YES),
        (atom(ORCHARD + "algorithmClass", "eq", "urn:a"), {"algorithm_class": "urn:b"}, NO),
        (atom("urn:nobody:knows", "eq", "x"), {"x": "x"}, NO),
        (atom("purpose", "resembles", RESEARCH), {"purpose": RESEARCH}, NO),
    ],
)
def test_one_constraint_decides(constraint: dict[str, Any], facts: dict[str, Any], *, allowed: bool) -> None:
    """A permission with one constraint permits exactly when it is satisfied; a doubt denies."""
    assert decide(offer(constraint), **facts).allowed is allowed


SAT, VIO, UNK = atom(FLOOR, "gteq", 1), atom(FLOOR, "gteq", 99), atom("urn:nobody:knows", "eq", 1)


@pytest.mark.parametrize(
    ("logic", "parts", "allowed", "when_forbidden"),
    [
        ("and", [SAT, SAT], YES, NO),
        ("and", [SAT, VIO], NO, YES),
        ("and", [SAT, UNK], NO, NO),
        ("and", [VIO, UNK], NO, YES),
        ("andSequence", [SAT, SAT], YES, NO),
        ("andSequence", [VIO, SAT], NO, YES),
        ("or", [VIO, SAT], YES, NO),
        ("or", [VIO, UNK], NO, NO),
        ("or", [SAT, UNK], YES, NO),
        ("or", [VIO, VIO], NO, YES),
        ("xone", [SAT, VIO], YES, NO),
        ("xone", [SAT, SAT], NO, YES),
        ("xone", [SAT, UNK], NO, NO),
        ("xone", [SAT, SAT, UNK], NO, YES),
        ("xone", [VIO, VIO], NO, YES),
    ],
)
def test_joined_constraints(logic: str, parts: list[dict[str, Any]], *, allowed: bool, when_forbidden: bool) -> None:
    """Joins follow Kleene's logic under a permission and under a prohibition; unknown denies under both."""
    joined = {logic: {"@list": parts}}
    assert decide(offer(joined), cohort_size=10).allowed is allowed
    forbidding = offer(prohibition=[{"action": "use", "constraint": [joined]}])
    assert decide(forbidding, cohort_size=10).allowed is when_forbidden


def test_a_prohibition_wins_and_widens() -> None:
    """What is forbidden stays forbidden whatever is permitted, and so does what lies below it."""
    forbidding = offer(prohibition=[{"action": "use", "constraint": [atom("purpose", "eq", DPV + "Marketing")]}])
    assert not decide(forbidding, purpose=DPV + "DirectMarketing").allowed
    assert not decide(forbidding, purpose="urn:unknown:purpose").allowed
    assert not decide(forbidding).allowed
    assert decide(forbidding, purpose=RESEARCH).allowed
    assert not decide(offer(prohibition=[{"action": "use"}])).allowed


def test_actions_include_each_other_and_unknown_ones_deny() -> None:
    """Use covers training; an unknown action grants nothing and, forbidden, denies."""
    assert decide(offer(), action=TRAIN).allowed
    only_read = {"@type": "Offer", "permission": [{"action": "read"}]}
    assert not decide(only_read, action=TRAIN).allowed
    assert not decide({"@type": "Offer", "permission": [{"action": "urn:sell"}]}).allowed
    assert not decide(offer(prohibition=[{"action": "urn:sell"}])).allowed
    assert not decide(offer(prohibition=[{"action": TRAIN}])).allowed
    assert not decide(offer(prohibition=[{"action": TRAIN}]), action=ODRL + "use").allowed
    assert not decide(offer(), action="urn:sell").allowed


def test_what_binds_later_is_deferred_and_listed() -> None:
    """At the catalog a consent is not asked yet, and the decision says so; at the round it is."""
    document = offer(atom(CONSENT, "eq", "granted"), atom(FLOOR, "gteq", 10), atom("purpose", "eq", RESEARCH))
    catalog = decide(document, Scope.CATALOG)
    assert catalog.allowed
    assert set(catalog.deferred) == {CONSENT, FLOOR, ODRL + "purpose"}
    negotiation = decide(document, Scope.NEGOTIATION, purpose=RESEARCH)
    assert set(negotiation.deferred) == {CONSENT, FLOOR}
    assert not decide(document, Scope.NEGOTIATION, purpose=DPV + "Marketing").allowed
    at_round = decide(document, Scope.ROUND, purpose=RESEARCH, consent="granted", cohort_size=12)
    assert at_round.allowed
    assert at_round.deferred == ()
    assert decide(document, Scope.RELEASE, purpose=RESEARCH, cohort_size=12).deferred == (CONSENT,)


def test_an_unknown_beside_something_deferred_denies_already() -> None:
    """A doubt is not put off to a later scope."""
    document = offer({"or": [UNK, atom(FLOOR, "gteq", 10)]})
    assert not decide(document, Scope.CATALOG).allowed


def test_a_deferred_prohibition_is_listed() -> None:
    """A prohibition that binds later does not deny now and is not forgotten."""
    document = offer(prohibition=[{"action": "use", "constraint": [atom(FLOOR, "lt", 10)]}])
    early = decide(document, Scope.CATALOG)
    assert early.allowed
    assert early.deferred == (FLOOR,)
    assert not decide(document, Scope.ROUND, cohort_size=3).allowed


def test_duties_come_with_the_permission_and_strange_ones_deny() -> None:
    """Obligations and the permission's own duties are handed over; one that nobody can name denies."""
    duty = {"action": "delete", "constraint": [atom("elapsedTime", "gteq", "P90D")]}
    document = offer(obligation=[{"action": "inform"}])
    document["permission"][0]["duty"] = [duty]
    decision = decide(document)
    assert [rule.action for rule in decision.duties] == [ODRL + "delete", ODRL + "inform"]
    assert not decide(offer(obligation=[{"action": "urn:dance"}])).allowed


def test_an_agreement_binds_its_own_parties() -> None:
    """Another assignee, or nobody known, has no permission under an agreement; another target neither."""
    document = offer(assignee="did:web:a", target="urn:dataset:1")
    assert decide(document, assignee="did:web:a").allowed
    assert not decide(document, assignee="did:web:b").allowed
    assert not decide(document).allowed
    assert not decide(document, assignee="did:web:a", target="urn:dataset:2").allowed
    ruled = {"@type": "Offer", "permission": [{"action": "use", "assignee": "did:web:a"}]}
    assert decide(ruled, assignee="did:web:a").allowed
    assert not decide(ruled, assignee="did:web:b").allowed


@pytest.mark.parametrize("key", ["algorithm_class", "purpose", "output_kind", "infers"])
def test_inferring_emotions_is_refused_under_any_policy(key: str) -> None:
    """The law wins over the widest permission, in any vocabulary's words."""
    decision = decide(offer(), **{key: "https://example.org/x#Emotion-Recognition"})
    assert not decision.allowed
    assert "5(1)(f)" in decision.refusals[0]


def test_a_refusal_names_the_constraint_in_one_sentence() -> None:
    """The sentence says which operand, what was asked and what is allowed; nothing that helped is in it."""
    document = offer(atom("purpose", "isAnyOf", [RESEARCH]), atom("dateTime", "lteq", "2030-01-01"))
    decision = decide(document, Scope.NEGOTIATION, purpose=DPV + "Marketing")
    assert decision.refusals == (f"purpose: asked {DPV}Marketing, the offer allows only one of {RESEARCH}",)
    lines = describe(decision)
    assert lines[0].startswith("At negotiation, policy urn:offer:1 does not allow")
    assert any("dateTime" in line for line in lines)


def test_the_gate_answers_malformed_policies_with_a_logged_denial() -> None:
    """What cannot be read denies and is logged like any decision."""
    seen: list[Decision] = []
    gate = PolicyGate(now=lambda: NOW, log=seen.append)
    assert not gate.decide("catalog", {"@type": "Offer"}, {}).allowed
    assert gate.decide("catalog", offer(), {}).allowed
    assert [decision.verdict for decision in seen] == [Verdict.DENY, Verdict.PERMIT]
    with pytest.raises(ValueError, match="somewhere"):
        gate.decide("somewhere", offer(), {})


def test_requirements_and_facts_of_a_policy() -> None:
    """The provider's own side can ask what a policy wants from it."""
    parsed = parse_policy(
        offer(atom(CONSENT, "eq", "granted"), {"and": [atom(FLOOR, "gt", 10), atom("purpose", "isA", RESEARCH)]})
    )
    wanted = requirements(parsed)
    assert (wanted.consent, wanted.cohort_floor, wanted.purposes) == (True, 11, (RESEARCH,))
    assert set(required_facts(parsed, Scope.CATALOG)) == set()
    assert set(required_facts(parsed, Scope.ROUND).values()) == {"consent", "cohort_size", "purpose"}


def test_templates_fill_and_decide() -> None:
    """Every template gives a policy that a complete set of facts satisfies; gaps and leftovers are refused."""
    values = {
        "offer_id": "urn:offer:1",
        "purpose": RESEARCH,
        "valid_from": "2026-01-01",
        "valid_until": "2027-01-01",
        "cohort_floor": 10,
    }
    extra = {
        "training-secure": {"algorithm_classes": ["urn:logistic"]},
        "training-with-deletion": {"delete_after": "P90D"},
        "training-deletion-after-job": {"delete_after": "P90D"},
        "training-with-privacy-budget": {"epsilon": 8},
        "training-for-named-recipients": {"recipients": ["did:web:ai"]},
        "training-counted": {"uses": 3},
    }
    facts = {
        "purpose": RESEARCH,
        "consent": "granted",
        "cohort_size": 12,
        "aggregation": "star",
        "algorithm_class": "urn:logistic",
        "epsilon_spent": 1.0,
        "assignee": "did:web:ai",
        "use_count": 1,
    }
    assert set(template_names()) == {"training", *extra}
    for name in template_names():
        policy = fill_template(name, values | extra.get(name, {}))
        assert decide(policy, **facts).allowed, name
        assert not decide(policy, **facts | {"cohort_size": 9}).allowed
        assert not decide(policy, **facts | {"consent": "missing"}).allowed
    with pytest.raises(PolicyFormatError, match="cohort_floor"):
        fill_template("training", {key: value for key, value in values.items() if key != "cohort_floor"})
    with pytest.raises(PolicyFormatError, match="colour"):
        fill_template("training", values | {"colour": "red"})
    with pytest.raises(PolicyFormatError, match="no template"):
        fill_template("../parse", {})


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "policy",
        {"@type": "Offer"},
        {"@type": "Nonsense", "permission": [{"action": "use"}]},
        {"@type": "Offer", "permission": ["use"]},
        {"@type": "Offer", "permission": [{"action": 7}]},
        {"@type": "Offer", "permission": [{"action": "use", "constraint": [{"leftOperand": "purpose"}]}]},
        {"@type": "Offer", "permission": [{"action": "use", "constraint": [{"and": [], "leftOperand": "x"}]}]},
        {"@type": "Offer", "permission": [{"action": "use", "constraint": [{"and": [SAT], "or": [SAT]}]}]},
        {"@type": "Offer", "permission": [{"action": "use", "constraint": [atom("purpose", "eq", {"a": 1})]}]},
        {"@type": "Offer", "permission": [{"action": "use", "constraint": [atom("purpose", "eq", [[RESEARCH]])]}]},
        {"@type": "Offer", "prohibition": [{"action": "use", "duty": [{"action": "delete"}]}]},
        {"@type": "Offer", "permission": [{"action": "use"}] * (MAX_RULES + 1)},
        {"@type": "Offer", "permission": [{"action": "use", "constraint": [SAT] * (MAX_CONSTRAINTS + 1)}]},
        {"@type": "Offer", "@id": "x" * 5000, "permission": [{"action": "use"}]},
    ],
)
def test_what_is_not_a_policy_is_refused(document: Any) -> None:
    """Shape, size and depth are checked before meaning."""
    with pytest.raises(PolicyFormatError):
        parse_policy(document)


def test_a_cycle_or_a_deep_nest_ends_early() -> None:
    """A constraint that holds itself is deeper than we read."""
    loop: dict[str, Any] = {}
    loop["and"] = [loop]
    with pytest.raises(PolicyFormatError, match="levels"):
        parse_policy(offer(loop))
    value: Any = "x"
    for _level in range(10_000):
        value = {"@value": value}
    with pytest.raises(PolicyFormatError):
        parse_policy(offer(atom("purpose", "eq", value)))


def test_every_operand_declares_where_it_binds_and_what_it_reads() -> None:
    """An operand without a scope would never be compared."""
    assert len(REGISTRY) == 22
    for operand in REGISTRY.values():
        assert operand.binds
        assert operand.fact


values = st.one_of(
    st.text(max_size=8),
    st.integers(-20, 20),
    st.floats(),
    st.booleans(),
    st.sampled_from([RESEARCH, DPV + "Marketing", "granted", "2026-11-21", "P30D", "EU", "did:web:a"]),
)
operators = st.sampled_from(
    ["eq", "neq", "gt", "gteq", "lt", "lteq", "hasPart", "isA", "isAllOf", "isAnyOf", "isNoneOf", "isPartOf", "odd"]
)
atoms = st.builds(
    atom, st.sampled_from([*REGISTRY, "urn:unknown"]), operators, st.one_of(values, st.lists(values, max_size=3))
)
constraints = st.recursive(
    atoms,
    lambda parts: st.builds(
        lambda logic, some: {logic: some},
        st.sampled_from(["and", "or", "xone", "andSequence"]),
        st.lists(parts, min_size=1, max_size=3),
    ),
    max_leaves=6,
)
rules = st.builds(
    lambda action, parts: {"action": action, "constraint": parts},
    st.sampled_from(["use", "read", TRAIN, "urn:strange"]),
    st.lists(constraints, max_size=3),
)
policies = st.builds(
    lambda permitted, forbidden: {"@type": "Offer", "permission": permitted, "prohibition": forbidden},
    st.lists(rules, min_size=1, max_size=3),
    st.lists(rules, max_size=2),
)
fact_values = st.one_of(values, st.lists(values, max_size=2), st.none(), st.just(NOW))
facts_of_any_kind = st.dictionaries(
    st.sampled_from(sorted({operand.fact for operand in REGISTRY.values()})), fact_values, max_size=8
)
scopes = st.sampled_from(list(Scope))
unknown = st.builds(atom, st.just("urn:unknown:operand"), operators, values)


@given(policies, facts_of_any_kind, scopes, unknown, st.data())
def test_adding_an_unknown_operand_never_permits_more(
    document: Any, facts: Any, scope: Scope, extra: Any, data: st.DataObject
) -> None:
    """Whatever rule it is added to, an unknown constraint never turns a denial into a permission."""
    before = decide(document, scope, **facts)
    changed = json.loads(json.dumps(document, default=str))
    kind = "prohibition" if changed["prohibition"] and data.draw(st.booleans()) else "permission"
    rule = data.draw(st.sampled_from(changed[kind]))
    nested = [part for part in rule["constraint"] if "leftOperand" not in part]
    if nested and data.draw(st.booleans()):
        joined = data.draw(st.sampled_from(nested))
        next(iter(joined.values())).append(extra)
    else:
        rule["constraint"].append(extra)
    if not before.allowed:
        assert not decide(changed, scope, **facts).allowed


@given(policies, facts_of_any_kind, scopes, rules)
def test_adding_a_prohibition_never_permits_more(document: Any, facts: Any, scope: Scope, rule: Any) -> None:
    """One more prohibition can only take away."""
    before = decide(document, scope, **facts)
    after = decide(document | {"prohibition": [*document["prohibition"], rule]}, scope, **facts)
    assert before.allowed or not after.allowed


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                [
                    "@type",
                    "@id",
                    "@value",
                    "@list",
                    "permission",
                    "prohibition",
                    "obligation",
                    "duty",
                    "constraint",
                    "and",
                    "or",
                    "xone",
                    "action",
                    "leftOperand",
                    "operator",
                    "rightOperand",
                    "assignee",
                    "target",
                ]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=20,
)


@given(json_values, facts_of_any_kind, scopes)
def test_the_gate_never_raises_on_hostile_json(document: Any, facts: Any, scope: Scope) -> None:
    """Any JSON at all gets a decision."""
    gate = PolicyGate(now=lambda: NOW)
    body = document if isinstance(document, dict) else {"permission": document}
    decision = gate.decide(scope, {"@type": "Offer", **body}, facts)
    assert describe(decision)
