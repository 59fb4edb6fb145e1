"""A guardian's pages in a real browser: choosing the child, answering for them, and what is refused in plain words."""

import pytest
from playwright.sync_api import expect

from tests.support.pages import DESK, PHONE, Visit

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(("size", "child"), [(PHONE, 1), (DESK, 2)])
def test_a_guardian_answers_for_each_child(visit: Visit, size: tuple[int, int], child: int) -> None:
    """The page always says for whom the answer is; the other child's answers do not change."""
    parent = visit(size)
    page = parent.page
    parent.sign_in("parent-1")
    chooser = page.get_by_role("navigation", name="For whom?")
    expect(chooser.get_by_role("link")).to_have_count(2)
    name = chooser.get_by_role("link").nth(child - 1).inner_text()
    chooser.get_by_role("link").nth(child - 1).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Decisions for {name}")
    parent.look("guardian-1-overview")
    page.get_by_role("link", name="Read and answer").first.click()
    expect(page.get_by_text(f"You are answering for {name}.")).to_be_visible()
    parent.look("guardian-2-notice")
    page.get_by_role("button", name="Yes, I agree").first.click()
    expect(page.get_by_text("a parent or guardian (checked in the school register)")).to_be_visible()
    parent.look("guardian-3-receipt")
    parent.go(f"/my/overview?for={3 - child}")
    before = page.get_by_text("answered by a parent or guardian").count()
    parent.go(f"/my/overview?for={child}")
    page.get_by_role("link", name="Withdraw").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Withdraw the yes for {name}?")
    parent.look("guardian-4-withdraw")
    page.get_by_role("button", name="Withdraw now").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Recorded: withdrawn")
    parent.go(f"/my/overview?for={3 - child}")
    assert page.get_by_text("answered by a parent or guardian").count() == before


def test_a_guardian_of_an_adult_is_told_why_not(visit: Visit) -> None:
    """For a learner who is of age the guardian sees the notice and no button."""
    parent = visit(PHONE)
    parent.sign_in("parent-2")
    expect(parent.page.get_by_text("This learner is of age and answers alone.")).to_be_visible()
    parent.page.get_by_role("link", name="Notice", exact=True).first.click()
    expect(parent.page.get_by_text("This learner is of age and answers alone.")).to_be_visible()
    expect(parent.page.locator("main button")).to_have_count(0)
    parent.look("guardian-adult")


def test_a_child_alone_may_only_say_no(visit: Visit) -> None:
    """A child below the age of consent is told who says yes, and can refuse."""
    child = visit(PHONE)
    child.sign_in("kim-1")
    child.page.get_by_role("link", name="Read and answer").first.click()
    expect(child.page.get_by_text("Below 16 years a parent or guardian says yes")).to_be_visible()
    expect(child.page.get_by_role("button", name="Yes, I agree")).to_have_count(0)
    child.look("child-alone")
    child.page.get_by_role("button", name="No, I do not agree").last.click()
    expect(child.page.get_by_role("heading", level=1)).to_have_text("Recorded: no")


def test_somebody_elses_child_is_nobody_here(visit: Visit) -> None:
    """A place that the account does not have is refused in words, as a page."""
    parent = visit(PHONE)
    parent.sign_in("parent-1")
    parent.go("/my/overview?for=9")
    expect(parent.page.get_by_role("alert")).to_contain_text("not one that your account may answer for")
    parent.look("guardian-unknown")
