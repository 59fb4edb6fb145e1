"""A learner's pages in a real browser: on a phone and at a desk, by keyboard, and without JavaScript."""

import pytest
from playwright.sync_api import expect

from tests.support.pages import DESK, PHONE, Visit, downloaded

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(("size", "person"), [(PHONE, "ada-1"), (DESK, "ben-1")])
def test_a_learner_reads_answers_and_withdraws(visit: Visit, size: tuple[int, int], person: str) -> None:
    """From the welcome to the receipt of a withdrawal; every page on the way is accessible and fits its screen."""
    learner = visit(size)
    page = learner.page
    learner.go("/my")
    learner.look("my-1-welcome")
    learner.sign_in(person)
    learner.look("my-2-overview")
    page.get_by_role("link", name="Read and answer").first.click()
    learner.look("my-3-notice")
    page.get_by_text("The full notice").click()
    learner.look("my-4-notice-full")
    page.get_by_role("button", name="Yes, I agree").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Recorded: yes")
    learner.look("my-5-receipt")
    receipt = downloaded(page, "Download the receipt (JSON)")
    assert receipt["payload"]["state"] == "granted"  # type: ignore[index]
    page.get_by_role("link", name="Answer the next purpose").click()
    page.get_by_role("button", name="No, I do not agree").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Recorded: no")
    page.get_by_role("link", name="Uses").click()
    expect(page.get_by_text("Rounds 3 to 17")).to_be_visible()
    learner.look("my-6-uses")
    page.get_by_role("link", name="Overview", exact=True).click()
    learner.look("my-7-answered")
    # Two clicks: this one and the next.
    page.get_by_role("link", name="Withdraw").click()
    learner.look("my-8-withdraw")
    page.get_by_role("button", name="Withdraw now").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Recorded: withdrawn")
    expect(page.get_by_text("A sum cannot be taken apart again")).to_be_visible()
    learner.look("my-9-withdrawn")
    everything = page.request.get(learner.school.url + "/my/export?for=0").json()
    assert {item["hasConsentStatus"] for item in everything} == {"dpv:ConsentWithdrawn", "dpv:ConsentRefused"}
    page.get_by_role("button", name="Sign out").click()
    learner.look("my-10-goodbye")
    learner.go("/my/overview")
    expect(page.get_by_role("link", name="Sign in")).to_be_visible()


def test_both_answers_weigh_the_same(visit: Visit) -> None:
    """Grant and refuse have the same size, the same colours and the same font, side by side or one below the other."""
    learner = visit(PHONE)
    learner.sign_in("dan-1")
    learner.page.get_by_role("link", name="Read and answer").first.click()
    look = "node => { const s = getComputedStyle(node), b = node.getBoundingClientRect(); return [b.width, b.height, s.color, s.backgroundColor, s.borderColor, s.font] }"
    card = learner.page.locator("article.card").first
    yes, no = (card.get_by_role("button", name=name) for name in ("Yes, I agree", "No, I do not agree"))
    assert yes.evaluate(look) == no.evaluate(look)
    assert yes.bounding_box()["height"] >= 44  # type: ignore[index]


def test_a_keyboard_is_enough(visit: Visit) -> None:
    """From the notice to the withdrawal with Tab and Enter only, the focus always visible."""
    learner = visit(DESK)
    page = learner.page
    learner.sign_in("cleo-1")

    def tab_to(text: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            found = page.evaluate(
                "() => { const e = document.activeElement, s = getComputedStyle(e);"
                " return [e.innerText.trim(), e.matches(':focus-visible') && s.outlineStyle !== 'none'] }"
            )
            if found[0] == text:
                assert found[1], f"the focus on {text} cannot be seen"
                return
        raise AssertionError(f"Tab does not reach {text}")

    tab_to("Go to the content")
    page.keyboard.press("Enter")
    tab_to("Read and answer")
    page.keyboard.press("Enter")
    page.wait_for_url("**/my/notices/**")
    tab_to("Yes, I agree")
    page.keyboard.press("Enter")
    page.wait_for_url("**/my/receipts/**")
    tab_to("Withdraw")
    page.keyboard.press("Enter")
    page.wait_for_url("**/withdraw")
    tab_to("Withdraw now")
    page.keyboard.press("Enter")
    page.wait_for_url("**/my/receipts/**")
    expect(page.get_by_role("heading", level=1)).to_have_text("Recorded: withdrawn")


def test_nothing_needs_javascript(visit: Visit) -> None:
    """With scripts switched off a learner says yes, renews it, switches the language and withdraws."""
    learner = visit(PHONE, java_script_enabled=False)
    page = learner.page
    learner.sign_in("eve-1")
    page.get_by_role("link", name="Read and answer").first.click()
    page.get_by_role("button", name="Yes, I agree").first.click()
    page.get_by_role("link", name="Overview", exact=True).click()
    page.get_by_role("link", name="Notice", exact=True).first.click()
    page.get_by_role("button", name="Renew my yes").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Recorded: yes, renewed")
    page.get_by_role("link", name="Deutsch").click()
    page.get_by_role("link", name="Widerrufen").click()
    page.get_by_role("button", name="Jetzt widerrufen").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Festgehalten: widerrufen")


@pytest.mark.parametrize("language", ["fr", "de", "es"])
def test_the_pages_speak_the_readers_language(visit: Visit, language: str) -> None:
    """The browser's language is taken, remembered when chosen, and a notice that lacks it says so and is marked."""
    learner = visit(PHONE, locale=language)
    page = learner.page
    learner.sign_in("dan-1")
    assert page.locator("html").get_attribute("lang") == language
    page.locator("a.button.main").first.click()
    learner.look(f"my-notice-{language}")
    title = page.locator("h1")
    assert title.get_attribute("lang") == ("de" if language == "de" else "en")
    fallback = page.locator("p.note", has_text="English")
    expect(fallback).to_have_count(0 if language == "de" else 1)


def test_dark_and_still(visit: Visit) -> None:
    """In dark mode the contrasts hold, and who wants no motion gets none."""
    learner = visit(PHONE, color_scheme="dark", reduced_motion="reduce")
    learner.sign_in("dan-1")
    learner.look("my-dark-overview")
    learner.page.locator("a.button.main").first.click()
    learner.look("my-dark-notice")
    motion = learner.page.evaluate("getComputedStyle(document.querySelector('.button')).transitionDuration")
    assert motion == "0s"


def test_an_expired_notice_says_so(visit: Visit) -> None:
    """An expired notice offers no button and says why."""
    learner = visit(PHONE)
    learner.sign_in("dan-1")
    learner.page.get_by_role("link", name="Notice: Who may need support").click()
    expect(learner.page.get_by_text("This notice expired on")).to_be_visible()
    expect(learner.page.locator("main button")).to_have_count(0)
    learner.look("my-expired")
