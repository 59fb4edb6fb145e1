"""The execution tree: its form, who sits where, who contributes to which leaf, and the manifest that says so."""

import itertools
from typing import Any

import pytest

from learning.placement import Candidate
from learning.secagg.errors import (
    BoxError,
    ErasedKeyError,
    ManifestError,
    ParameterError,
    PlacementError,
    UnknownContributorError,
)
from learning.secagg.keys import SealingChain, box_info, epoch_of, new_sealing_chain, seal
from learning.secagg.manifest import KIND, Identity, Manifest, Topology, build_manifest, verify_manifest
from learning.shape import Costs, tree_shape
from learning.tree import (
    ExecutionTree,
    deal_leaves,
    hashed_leaf,
    parse_replaced,
    place_columns,
    replaced_json,
)
from policies.signing import new_signer
from tests.support.secagg_star import (
    MODEL,
    NOW,
    approval,
    identify,
    member_id,
    member_sealing_key,
    reveal_of,
    terms,
)

COLLECTOR = new_signer("did:web:ai.example")
IDENTITY = Identity(participant=COLLECTOR.kid, organisation="AI Ltd", public_key=COLLECTOR.public_key)


def candidates(count: int, organisations: int) -> list[Candidate]:
    """Return members spread over some organisations."""
    return [
        Candidate(participant=member_id(number), organisation=f"School {number % organisations}")
        for number in range(count)
    ]


def grown(leaves: int, fan_out: int, ring: int = 4, m: int = 3) -> ExecutionTree:
    """Return a tree with columns of equal length."""
    columns = tuple(tuple(f"{column}-{place}" for place in range(ring)) for column in range(m))
    return ExecutionTree.grow(leaves, fan_out, columns)


def build(count: int = 10, **changes: Any) -> tuple[dict[str, Any], Manifest]:
    """Return the manifest of a tree of two leaf groups."""
    value: dict[str, Any] = {
        "aggregation": "tree",
        "shape": (3, 1),
        "topology": Topology(leaves=2, fan_out=2),
        "rounds": 4,
    }
    reveals = {member_id(number): reveal_of(number) for number in range(count)}
    return build_manifest(
        terms(**(value | changes)),
        [approval(number) for number in range(count)],
        reveals,
        identify=identify,
        signer=COLLECTOR,
    )


# Form


@pytest.mark.parametrize(("leaves", "fan_out"), list(itertools.product((1, 2, 3, 5, 8, 9, 64, 65), (2, 3, 8))))
def test_every_form_has_its_leaves_and_no_group_more_children_than_the_fan_out(leaves, fan_out):
    """Groups are named by their path, level by level, and every one but the top has its parent in the tree."""
    tree = grown(leaves, fan_out)
    assert len(tree.leaves) == leaves
    assert tree.names[0] == "0"
    assert len({tree.parent(name) is None for name in tree.names[1:]} - {False}) == 0
    assert all(len(tree.children(name)) <= fan_out for name in tree.names)
    assert all(name in tree.children(str(tree.parent(name))) for name in tree.names[1:])
    assert sorted(tree.names, key=lambda name: name.count(".")) == list(tree.names)
    assert tree.depth == max(name.count(".") for name in tree.names) + 1
    assert all(name.count(".") == tree.depth - 1 for name in tree.leaves)


def test_a_star_is_a_tree_of_one_group_in_which_nobody_is_replaced():
    """One group is leaf and top at once."""
    tree = ExecutionTree.star(["a", "b", "c"])
    assert (tree.names, tree.leaves, tree.depth, tree.parent("0")) == (("0",), ("0",), 1, None)
    assert tree.seats("0") == ("a", "b", "c")
    assert tree.spare(0) == 0
    with pytest.raises(PlacementError):
        tree.seat("0", 0, 1)


@pytest.mark.parametrize(("leaves", "fan_out"), [(0, 2), (4, 1)])
def test_impossible_forms_are_refused(leaves, fan_out):
    """A tree has leaves, and groups with at least two children."""
    with pytest.raises(ParameterError):
        grown(leaves, fan_out)


# Seats


@pytest.mark.parametrize("ring", [1, 2, 5, 9, 20])
def test_a_seat_is_replaced_by_everybody_else_of_its_column_once(ring):
    """The order of replacements is fixed, takes members without a seat first, and then ends."""
    tree = grown(4, 2, ring=ring)
    for name in tree.names:
        found = [tree.seat(name, 1, times) for times in range(ring)]
        assert sorted(found) == sorted(tree.columns[1])
        idle = set(tree.columns[1][len(tree.names) :])
        assert set(found[1 : 1 + len(idle)]) == idle
        assert tree.spare(1, ring - 1) == 0
        with pytest.raises(PlacementError):
            tree.seat(name, 1, ring)


def test_unknown_groups_and_columns_are_refused():
    """Nothing is made up for them."""
    tree = grown(2, 2)
    for call in (
        lambda: tree.seat("0.7", 0),
        lambda: tree.seat("0", 3),
        lambda: tree.parent("1"),
        lambda: tree.seats("0", {9: 1}),
    ):
        with pytest.raises(PlacementError):
            call()
    assert tree.column_of("2-1") == 2
    assert tree.column_of("nobody") is None


def test_no_organisation_is_in_two_columns_and_the_collectors_in_none():
    """All members of one organisation lie in one column; hash order decides which."""
    members = [*candidates(14, 6), Candidate(participant="did:web:inside", organisation=" ai  LTD ")]
    owner = {member.participant: member.organisation for member in members}
    first = set()
    for draw in range(40):
        columns = place_columns(f"{draw:064x}", members, seats=5, collector_organisation="AI Ltd")
        assert columns == place_columns(f"{draw:064x}", members[::-1], seats=5, collector_organisation="AI Ltd")
        seen = [{owner[name] for name in ring} for ring in columns]
        assert sorted(name for ring in columns for name in ring) == sorted(set(owner) - {"did:web:inside"})
        assert all(not a & b for a, b in itertools.combinations(seen, 2))
        first.add(columns[0][0])
    assert len(first) > 6
    with pytest.raises(PlacementError):
        place_columns("00", candidates(14, 4), seats=5, collector_organisation="AI Ltd")


def test_leaves_are_dealt_evenly_or_hashed():
    """Members differ by one at most; many contributors go where their hash says, and everywhere."""
    tree = grown(4, 2)
    dealt = deal_leaves("ab", [member_id(number) for number in range(10)], tree.leaves)
    sizes = [list(dealt.values()).count(leaf) for leaf in tree.leaves]
    assert (max(sizes) - min(sizes), sum(sizes)) == (1, 10)
    hashed = [hashed_leaf("ab", f"x#{number}", tree.leaves) for number in range(200)]
    assert min(hashed.count(leaf) for leaf in tree.leaves) > 25


@pytest.mark.parametrize(
    "value", [None, {"0": 1}, {"0": {"x": 1}}, {"0": {"01": 1}}, {"0": {"0": 0}}, {"0": {"0": True}}, {"9": {"0": 1}}]
)
def test_malformed_replacements_are_refused(value):
    """Groups, columns and numbers that the tree does not have."""
    with pytest.raises(PlacementError):
        parse_replaced(value, grown(2, 2))


def test_replacements_travel_as_json():
    """What is written is read again."""
    value = {"0.1": {2: 1, 0: 3}}
    assert parse_replaced(replaced_json(value | {"0": {}}), grown(2, 2)) == value


# The manifest


def test_a_member_recomputes_the_tree():
    """Columns, seats and leaves come out the same on both sides."""
    document, built = build()
    assert verify_manifest(document, collector=IDENTITY, identify=identify, now=NOW) == built
    assert built.tree is not None
    assert document["payload"]["tree"] == built.tree.to_json()
    assert [built.leaf_of(member_id(number)) for number in range(10)].count("0.0") == 5
    group = built.group_of("0.1")
    assert not group.inner
    assert set(group.order) == {name for name in built.keys if built.leaf_of(name) == "0.1"}
    assert built.group_of("0").inner


@pytest.mark.parametrize(
    "change",
    [
        lambda payload: payload["tree"]["columns"].reverse(),
        lambda payload: payload["tree"]["groups"].pop(),
        lambda payload: payload["tree"]["groups"][1]["seats"].reverse(),
        lambda payload: payload["terms"].update(topology={"leaves": 3, "fan_out": 2}),
        lambda payload: payload["terms"].update(topology={"leaves": 2.0, "fan_out": 2}),
        lambda payload: payload["terms"].update(topology=None),
        lambda payload: payload["terms"].update(granularity="learner "),
        lambda payload: payload["terms"].update(rounds="4"),
        lambda payload: payload.pop("tree"),
    ],
    ids=range(9),
)
def test_a_bent_tree_is_refused(change):
    """Whatever the collector bends, and signs, every member sees it."""
    payload = build()[0]["payload"]
    change(payload)
    with pytest.raises((ManifestError, PlacementError)):
        verify_manifest(COLLECTOR.sign(KIND, payload), collector=IDENTITY, identify=identify, now=NOW)


@pytest.mark.parametrize("changes", [{"shape": None}, {"shape": (5, 4)}, {"topology": Topology(leaves=9, fan_out=2)}])
def test_trees_that_cannot_be_filled_are_refused(changes):
    """A supported shape, and leaf groups above the floor."""
    with pytest.raises(PlacementError):
        build(**changes)


def test_contributors_are_members_or_their_parts_never_both():
    """At provider granularity nobody uploads twice under two names; at learner granularity nobody uploads as a whole."""
    _, whole = build()
    _, parts = build(granularity="learner")
    assert parts.leaf_of(f"{member_id(1)}#ab") in ("0.0", "0.1")
    assert parts.leaf_members("0.0") == ()
    for manifest, name in (
        (whole, f"{member_id(1)}#ab"),
        (whole, "did:web:stranger"),
        (parts, member_id(1)),
        (parts, f"{member_id(1)}#"),
        (parts, "did:web:stranger#ab"),
    ):
        with pytest.raises(UnknownContributorError):
            manifest.leaf_of(name)


def test_a_replaced_seat_changes_the_context_and_a_column_keeps_one_voice():
    """What was replaced before the round binds everything; who is replaced in it does not sign the set."""
    _, built = build()
    before = built.context(round=1, attempt=1, model=MODEL, group="0.0")
    after = built.context(round=1, attempt=1, model=MODEL, group="0.0", replaced={1: 1})
    assert before.digest != after.digest
    assert "replaced" not in before.document()
    group = built.group_of("0.0", now={1: 1})
    assert group.seats[1] != group.voices[1] == built.group_of("0.0").seats[1]
    assert built.group_of("0.0", replaced={1: 1}).voices == built.group_of("0.0", replaced={1: 1}).seats


# Sealing keys


@pytest.mark.parametrize("suite", ["x25519", "mlkem768-x25519"])
def test_a_stepped_chain_opens_its_own_epochs_and_no_earlier_one(suite):
    """What was recorded in an epoch whose state is erased stays closed."""
    chain = new_sealing_chain(suite)
    public = chain.public_keys(3)
    boxes = [seal(b"seeds", key, b"info") for key in public]
    later = SealingChain.from_text(chain.at(2).to_text())
    assert later.key.open(boxes[2], b"info") == b"seeds"
    for box in boxes[:2]:
        with pytest.raises(BoxError):
            later.key.open(box, b"info")
    with pytest.raises(ErasedKeyError):
        later.at(1)
    assert later.public_keys(1) == public[2:]
    assert "state" not in repr(chain)


@pytest.mark.parametrize("text", ["", "x25519 0", "x25519 0 !!", "x25519 -1 AAAA", "p256 0 AAAA", "x25519 0 AAAA"])
def test_what_is_not_a_chain_is_refused(text):
    """Suite, epoch and 32 bytes."""
    with pytest.raises(ParameterError):
        SealingChain.from_text(text)


@pytest.mark.parametrize("epochs", [0, 65])
def test_epochs_are_limited(epochs):
    """An approval carries at most 64 keys."""
    with pytest.raises(ParameterError):
        new_sealing_chain().public_keys(epochs)


def test_rounds_are_spread_over_the_epochs():
    """Every epoch is used, in order; rounds beyond the last belong to the last."""
    assert [epoch_of(number, 6, 3) for number in range(1, 8)] == [0, 0, 1, 1, 2, 2, 2]
    assert [epoch_of(number, 2, 64) for number in (1, 2)] == [0, 32]
    assert box_info("ab", "a", "b") != box_info("ab", "a", "c")


@pytest.mark.parametrize("keys", [[1, 1], [1, 0]], ids=["in two epochs", "by two members"])
def test_a_sealing_key_is_used_by_one_member_in_one_epoch(keys):
    """A chain that does not step, or a key shared by two, opens more than its round."""
    reveals = {member_id(number): reveal_of(number) for number in range(4)}
    wrong = approval(1, hpke_public=[member_sealing_key(number).public_key for number in keys])
    approvals = [approval(0), wrong, approval(2), approval(3)]
    with pytest.raises(ManifestError):
        build_manifest(terms(), approvals, reveals, identify=identify, signer=COLLECTOR)


# The cost model


def test_the_cost_model_makes_at_least_two_leaves_and_keeps_the_floor():
    """Whatever things cost, no leaf group is below n_min."""
    for n, n_min in ((4, 2), (22, 3), (100, 5), (512, 4)):
        found = tree_shape(n=n, d=10_000, k=32, shape=(5, 2), members=n, n_min=n_min)
        assert found.leaves >= 2
        assert n // found.leaves >= n_min
    with pytest.raises(PlacementError):
        tree_shape(n=5, d=10, k=32, shape=(3, 1), members=5, n_min=3)


def test_dear_computing_makes_smaller_leaves_and_dear_messages_larger_ones():
    """The form follows the prices."""
    common: dict[str, Any] = {"n": 512, "d": 250_000, "k": 32, "shape": (5, 2), "members": 512, "n_min": 2}
    slow = tree_shape(**common, costs=Costs(mask=5e-8, add=5e-8, receiving=0.0))
    far = tree_shape(**common, costs=Costs(latency=2.0))
    assert slow.leaves > far.leaves
    assert far.depth == 2
    assert tree_shape(**common, fan_out=3).fan_out == 3


def test_seats_that_are_dear_to_the_collector_are_fewer():
    """The collector speaks to every seat: what that costs it makes the groups larger, and the estimate longer."""
    common: dict[str, Any] = {"n": 4096, "d": 250_000, "k": 32, "shape": (5, 2), "members": 4096, "n_min": 4}
    free, dear = (tree_shape(**common, costs=Costs(mask=5e-8, add=5e-8, seat=seat)) for seat in (0.0, 0.05))
    assert dear.leaves < free.leaves
    assert dear.seconds > free.seconds + 5 * dear.leaves * 0.05
