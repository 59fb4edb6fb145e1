"""An operator's pages in a real browser: what waits, approvals, policies explained, the live board, what is stuck."""

import pytest
from playwright.sync_api import expect

from tests.support.pages import DESK, PHONE, Visit, Visitor
from tests.support.pages_facts import say

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
    for name, path in (
        ("plans", "plans"),
        ("jobs", "jobs"),
        ("notices", "notices"),
        ("duties", "duties"),
        ("decisions", "decisions?verdict=deny"),
        ("webhooks", "webhooks"),
        ("stuck", "stuck"),
    ):
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


def test_an_operator_signs_in_with_the_organisations_account(visit: Visit) -> None:
    """By OIDC, without the token: the access token's scopes decide what opens, and signing out closes it again."""
    office = visit(DESK)
    page = office.page
    office.go("/operate")
    page.get_by_role("link", name="Sign in with your organisation").click()
    expect(page.get_by_role("heading", name="North School, staff: who are you?")).to_be_visible()
    office.look("operate-9-provider")
    office.operate_as("office")
    expect(page.get_by_role("heading", level=1)).to_have_text("Board")
    # An administrator is no auditor: the log is for who has that scope.
    office.go("/operate/decisions")
    expect(page.get_by_role("alert")).to_be_visible()
    dpo = visit(PHONE)
    dpo.operate_as("dpo")
    dpo.page.get_by_role("link", name="denied in the last 24 hours").click()
    expect(dpo.page.get_by_role("heading", level=1)).to_have_text("Decisions")
    dpo.go("/operate/duties")
    dpo.page.get_by_label("Proof").first.fill("not mine to say")
    dpo.page.get_by_role("button", name="It is fulfilled").first.click()
    expect(dpo.page.get_by_role("alert")).to_be_visible()
    dpo.go("/operate/board")
    dpo.page.get_by_role("button", name="Sign out").click()
    dpo.go("/operate/duties")
    expect(dpo.page.get_by_label("Operator token")).to_be_visible()


def test_the_decision_log_is_filtered_and_paged(visit: Visit) -> None:
    """Verdict and step narrow the log down; older decisions are one click away; each says why."""
    auditor = visit(DESK)
    page = auditor.page
    auditor.operate_as("dpo")
    auditor.go("/operate/decisions")
    expect(page.locator("article")).to_have_count(25)
    auditor.look("operate-10-decisions")
    for _ in range(2):
        page.get_by_role("link", name="Older decisions").click()
    expect(page.locator("article")).to_have_count(10)
    page.get_by_label("Verdict").select_option("deny")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("article")).to_have_count(3)
    expect(page.locator("article").first).to_contain_text("asked https://w3id.org/dpv#Marketing")
    page.get_by_label("At which step").select_option("release")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_text("No decision of this kind is in the log.")).to_be_visible()


def test_a_duty_is_fulfilled_with_its_proof(visit: Visit) -> None:
    """The overdue duty comes first; without a proof it is asked again; with one it moves to the fulfilled."""
    operator = visit(DESK)
    page = operator.page
    _sign_in(operator)
    page.get_by_role("link", name="duty is overdue").click()
    first = page.locator("article").first
    expect(first).to_contain_text("overdue")
    first.get_by_role("button", name="It is fulfilled").click()
    expect(page.get_by_role("alert")).to_have_text("Say what shows that it is done.")
    operator.look("operate-11-proof")
    first.get_by_label("Proof").fill("invoice 7")
    first.get_by_label("Amount paid").fill("100")
    first.get_by_role("button", name="It is fulfilled").click()
    expect(page.get_by_role("status")).to_contain_text("The proof is written.")
    expect(page.get_by_role("row", name="pay")).to_contain_text("invoice 7")
    expect(page.get_by_role("row", name="delete the data")).to_contain_text("begins when a job ends")
    operator.go("/operate/board")
    expect(page.get_by_role("link", name="duties are overdue")).to_contain_text("0")


def test_a_webhook_is_paused_and_tried_again(visit: Visit) -> None:
    """What was given up is queued again, a paused one sends nothing, and each is said."""
    operator = visit(PHONE)
    page = operator.page
    _sign_in(operator)
    page.get_by_role("link", name="webhook delivery given up").click()
    lms = page.locator("article", has_text="127.0.0.1:9/consents")
    expect(lms).to_contain_text("1 sent, 1 waiting, 1 given up.")
    lms.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("status")).to_contain_text("Nothing is sent there now")
    lms.get_by_role("button", name="Try again what was given up").click()
    expect(lms).to_contain_text("1 sent, 2 waiting, 0 given up.")
    expect(lms).to_contain_text("Paused since")
    lms.get_by_text("The newest deliveries").click()
    operator.look("operate-12-webhooks")
    lms.get_by_role("button", name="Go on").click()
    expect(page.get_by_role("status")).to_contain_text("What has waited is being sent.")
