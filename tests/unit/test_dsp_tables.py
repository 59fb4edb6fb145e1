"""The transition tables: every combination of sender, state and message, legal and illegal."""

import itertools
import re
from importlib.resources import files
from pathlib import Path

import pytest

import contracts
from contracts import states, transfers
from contracts.errors import IllegalTransitionError
from contracts.states import NegotiationState, NegotiationStep, Role
from contracts.transfers import TransferState, TransferStep

C, P = Role.CONSUMER, Role.PROVIDER
N, S = NegotiationState, NegotiationStep
T, M = TransferState, TransferStep

# Written out again from the specification's state machine figures, so that a slip in the table shows.
LEGAL = {
    (C, None, S.REQUEST): N.REQUESTED,
    (P, None, S.OFFER): N.OFFERED,
    (P, N.REQUESTED, S.OFFER): N.OFFERED,
    (P, N.REQUESTED, S.AGREE): N.AGREED,
    (C, N.OFFERED, S.REQUEST): N.REQUESTED,
    (C, N.OFFERED, S.ACCEPT): N.ACCEPTED,
    (P, N.ACCEPTED, S.AGREE): N.AGREED,
    (C, N.AGREED, S.VERIFY): N.VERIFIED,
    (P, N.VERIFIED, S.FINALIZE): N.FINALIZED,
} | {
    (role, state, S.TERMINATE): N.TERMINATED
    for role in Role
    for state in (N.REQUESTED, N.OFFERED, N.ACCEPTED, N.AGREED, N.VERIFIED)
}
LEGAL_TRANSFER = {
    (C, None, M.REQUEST): T.REQUESTED,
    (P, T.REQUESTED, M.START): T.STARTED,
    **{(role, T.SUSPENDED, M.START): T.STARTED for role in Role},
    **{(role, T.STARTED, M.SUSPEND): T.SUSPENDED for role in Role},
    **{(role, T.STARTED, M.COMPLETE): T.COMPLETED for role in Role},
    **{(role, state, M.TERMINATE): T.TERMINATED for role in Role for state in (T.REQUESTED, T.STARTED, T.SUSPENDED)},
}


@pytest.mark.parametrize(("sender", "state", "step"), list(itertools.product(Role, [None, *N], S)))
def test_negotiation_table_holds_exactly_the_specification(sender, state, step):
    """A step leads where the specification says, and every other step is refused."""
    expected = LEGAL.get((sender, state, step))
    assert states.is_legal(sender, state, step) is (expected is not None)
    if expected is None:
        with pytest.raises(IllegalTransitionError):
            states.after(sender, state, step)
    else:
        assert states.after(sender, state, step) is expected


@pytest.mark.parametrize(("sender", "state", "step"), list(itertools.product(Role, [None, *T], M)))
def test_transfer_table_holds_exactly_the_specification(sender, state, step):
    """A step leads where the specification says, and every other step is refused."""
    expected = LEGAL_TRANSFER.get((sender, state, step))
    assert transfers.is_legal(sender, state, step) is (expected is not None)
    if expected is None:
        with pytest.raises(IllegalTransitionError):
            transfers.after(sender, state, step)
    else:
        assert transfers.after(sender, state, step) is expected


def test_a_step_always_leads_to_the_same_state():
    """A repeat's answer can be read off the step alone."""
    for law, result in ((LEGAL, states.RESULT), (LEGAL_TRANSFER, transfers.RESULT)):
        for (_, _, step), target in law.items():
            assert result[step] is target


def test_nothing_leaves_a_final_state():
    """FINALIZED, COMPLETED and TERMINATED are ends."""
    assert not any(states.is_legal(r, s, m) for r in Role for s in states.FINAL for m in S)
    assert not any(transfers.is_legal(r, s, m) for r in Role for s in transfers.FINAL for m in M)


def _named_in_the_readme() -> list[tuple[str, str]]:
    """Return every (file, function) that the table of the specification's sections names."""
    readme = files("contracts").joinpath("README.md").read_text(encoding="utf-8")
    table = readme.split("## Where each section of the specification lives")[1].split("\n## ")[0]
    found, file = [], ""
    for row in (line for line in table.splitlines() if line.startswith("|")):
        for word in re.findall(r"`([^`]+)`", row.split("|")[2]):
            if word.endswith(".py"):
                file = word.replace("c/", "contracts/", 1) if word.startswith("c/") else word
                file = file.replace("h/", "connector/http/", 1) if file.startswith("h/") else file
            elif re.fullmatch(r"[A-Za-z_]\w*(\.\w+)?", word):
                found.append((file, word))
    return found


def test_the_readme_names_functions_that_are_there():
    """Whoever follows the table finds the function in the file that it names."""
    named = _named_in_the_readme()
    assert len(named) > 60
    root = Path(contracts.__file__).parent.parent
    for file, name in named:
        text = (root / file).read_text(encoding="utf-8")
        for part in name.split("."):
            assert re.search(rf"^\s*(def|class) {part}\b|^{part}\b|\b{part}\(", text, re.MULTILINE), (file, name)


@pytest.mark.parametrize("machine", [states, transfers])
def test_the_room_s_diagrams_are_printed_from_the_tables(machine):
    """The README shows the diagrams as the tables print them."""
    readme = files("contracts").joinpath("README.md").read_text(encoding="utf-8")
    assert machine.diagram() in readme
