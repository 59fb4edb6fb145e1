"""An operator's pages in a real browser: what waits, approvals, policies explained, the live board, what is stuck."""

import pytest
from playwright.sync_api import expect

from tests.support.pages import DESK, PHONE, Visit, Visitor, browser, school, visit
from tests.support.pages_facts import say

__all__ = ["browser", "school", "visit"]
pytestmark = pytest.mark.e2e


def _sign_in(operator: Visitor) -> None:
    operator.go("/operate")
    operator.page.get_by_label("Operator token").fill(operator.school.token)
    operator.page.get_by_role("button", name="Sign in").click()
    operator.page.wait_for_url("**/operate/board")


def test_a_wrong_token_opens_nothing(visit: Visit) -> None:
    """A wrong token is refused in words, and the pages behind lead back to the sign-in."""
    stranger = visit(PHONE)
    stranger.go("/operate/jobs")
    expect(stranger.page.get_by_label("Operator token")).to_be_visible()
    stranger.page.get_by_label("Operator token").fill("guess")
    stranger.page.get_by_role("button", name="Sign in").click()
    expect(stranger.page.get_by_role("alert")).to_contain_text("not the token")
    stranger.look("operate-1-refused")


@pytest.mark.parametrize("size", [PHONE, DESK])
def test_every_page_is_accessible_and_fits(visit: Visit, size: tuple[int, int]) -> None:
    """Each page of the menu, at both sizes, with the numbers an operator comes for and small ones hidden."""
    operator = visit(size)
    page = operator.page
    operator.go("/operate")
    operator.look("operate-0-welcome")
    _sign_in(operator)
    expect(page.get_by_role("row", name="KnowledgeTracing").first).to_contain_text("20 to 49")
    expect(page.get_by_role("row", name="AcademicResearch")).to_contain_text("fewer than 10")
    operator.look("operate-2-board")
    for name, path in (("plans", "plans"), ("jobs", "jobs"), ("notices", "notices"), ("stuck", "stuck")):
        operator.go(f"/operate/{path}")
        operator.look(f"operate-3-{name}")
    expect(page.get_by_role("row", name="negotiation, REQUESTED")).to_contain_text("503: try again later")
    operator.go("/operate/notices")
    page.get_by_role("link", name="How we use your answers").first.click()
    operator.look("operate-4-notice")


def test_a_policy_is_explained(visit: Visit) -> None:
    """The explain view says why a request is allowed, and which constraint refuses another purpose."""
    operator = visit(DESK)
    page = operator.page
    _sign_in(operator)
    page.get_by_role("link", name="Policies", exact=True).click()
    page.get_by_label("For which purpose").fill("https://w3id.org/dpv#Marketing")
    page.get_by_label("How many consent").fill("34")
    page.get_by_role("button", name="Explain").click()
    expect(page.get_by_role("status")).to_contain_text("does not allow this use")
    operator.look("operate-5-denied")
    page.get_by_label("For which purpose").fill("https://w3id.org/orchard/KnowledgeTracing")
    page.get_by_role("button", name="Explain").click()
    expect(page.get_by_role("status")).to_contain_text("allows this use")
    operator.look("operate-6-allowed")


def test_a_plan_is_approved_and_one_refused_with_a_reason(visit: Visit) -> None:
    """A refusal without a reason is asked again; a decision moves the plan out of what waits."""
    operator = visit(DESK)
    page = operator.page
    _sign_in(operator)
    page.get_by_role("link", name="Plans", exact=True).click()
    first = page.locator("article", has_text="Knowledge tracing for spring")
    first.get_by_role("button", name="Refuse").click()
    expect(page.get_by_role("alert")).to_have_text("Say why you refuse.")
    operator.look("operate-7-reason")
    first.get_by_label("Reason").fill("The cohort is too small for us.")
    first.get_by_role("button", name="Refuse").click()
    expect(page.get_by_role("status")).to_have_text("The plan is refused.")
    page.locator("article").get_by_role("button", name="Approve").click()
    expect(page.get_by_role("status")).to_have_text("The plan is approved.")
    expect(page.get_by_text("No plan waits for a decision.")).to_be_visible()
    expect(page.get_by_role("row", name="Knowledge tracing for spring")).to_contain_text(
        "The cohort is too small for us."
    )


def test_the_jobs_board_follows_by_itself(visit: Visit) -> None:
    """What a worker notes in a job's timeline appears on the open board without a reload, under the strict policy."""
    operator = visit(DESK)
    _sign_in(operator)
    operator.page.get_by_role("link", name="Jobs", exact=True).click()
    expect(operator.page.get_by_text("joined; enough learners consent")).to_be_visible()
    say(operator.school.settings, 7)
    expect(operator.page.get_by_text("round 7 opened")).to_be_visible()
    operator.look("operate-8-live")
