"""A school with pages in real processes, a sign-in service beside it, and people who visit in a real browser."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect, sync_playwright

from connector.demo.issuers import create_issuer, key_of
from connector.settings import Settings
from policies.notices import Notice
from tests.support.consents import notice, purpose_body
from tests.support.pages_facts import fill
from tests.support.participants import enrol
from tests.support.processes import ORCHARD, free_port, served

ISSUER = "https://lms.north.example"
ARTEFACTS = Path(__file__).parents[2] / "test-artefacts"
PHONE, DESK = (360, 740), (1280, 900)
# Chromium in a container: no sandbox of its own, no graphics, and not a packet to anywhere.
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LEARNERS = [
    {"subject": "ada-1", "birth_year": 1999, "guardian": None},
    {"subject": "ben-1", "birth_year": 1998, "guardian": None},
    {"subject": "cleo-1", "birth_year": 1997, "guardian": None},
    {"subject": "dan-1", "birth_year": 1996, "guardian": None},
    {"subject": "eve-1", "birth_year": 1995, "guardian": None},
    {"subject": "kim-1", "birth_year": 2014, "guardian": "parent-1"},
    {"subject": "lea-1", "birth_year": 2016, "guardian": "parent-1"},
    {"subject": "max-1", "birth_year": 2000, "guardian": "parent-2"},
]
STAFF_ISSUER = "https://staff.north.example"
STAFF = [
    {"subject": "office", "name": "School office", "scope": "admin"},
    {"subject": "dpo", "name": "Data protection officer", "scope": "read audit"},
]
FULL = "We ask for your consent because a model learns from how learners answer.\n\nThe model is trained at the school."


@dataclasses.dataclass(frozen=True, kw_only=True)
class School:
    """The running school."""

    url: str
    sign_in: str
    settings: Settings
    token: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Visitor:
    """A person with a browser of their own; remembers every address it called."""

    page: Page
    school: School
    called: list[str]
    name: str

    def go(self, path: str) -> None:
        """Open a page of the school."""
        answer = self.page.goto(self.school.url + path)
        assert answer is not None

    def sign_in(self, person: str) -> None:
        """Sign in as somebody whom the sign-in service knows."""
        self.go("/my")
        self.page.locator("a[href='/my/sign-in']").click()
        self.page.locator(f"a[href*='person={person}']").first.click()
        self.page.wait_for_url("**/my/overview")

    def operate_as(self, person: str) -> None:
        """Sign in to operate with the organisation's account."""
        self.go("/operate")
        self.page.get_by_role("link", name="Sign in with your organisation").click()
        self.page.locator(f"a[href*='person={person}']").click()
        self.page.wait_for_url("**/operate/board")

    def look(self, name: str) -> None:
        """Keep a picture of the page and hold it to the rules of accessibility."""
        ARTEFACTS.mkdir(exist_ok=True)
        self.page.screenshot(path=ARTEFACTS / f"{name}-{self.name}.png", full_page=True)
        found = Axe().run(self.page)
        assert found.violations_count == 0, found.generate_report()
        width = self.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert width[0] <= width[1], f"{name} is wider than its screen: {width}"


def notices(public_url: str) -> list[Notice]:
    """Return what the school asks: one notice in two languages, and one that has expired."""
    now = datetime.now(UTC).replace(microsecond=0)
    words = {
        "en": {
            "title": "How we use your answers",
            "short": "A model learns from your answers. They stay at your school; only sums leave it.",
            "full": FULL,
            "purposes": {"https://w3id.org/orchard/KnowledgeTracing": "help teachers see where you need support"},
        },
        "de": {
            "title": "Wie wir deine Antworten nutzen",
            "short": "Ein Modell lernt aus deinen Antworten. Sie bleiben an deiner Schule; nur Summen verlassen sie.",
            "full": FULL,
            "purposes": {"https://w3id.org/orchard/KnowledgeTracing": "Lehrkräften zeigen, wo du Hilfe brauchst"},
        },
    }
    shared = {
        "controller": {"party_id": "did:web:north.example", "name": "North School", "contact": "office@north.example"}
    }
    current = notice(
        notice_id=f"{public_url}/datasets/answers/notice",
        dataset_id=f"{public_url}/datasets/answers",
        texts=words,
        published_at=now.isoformat(),
        dpo="dpo@north.example",
        **shared,
    )
    expired = notice(
        notice_id=f"{public_url}/datasets/old/notice",
        dataset_id=f"{public_url}/datasets/old",
        purposes=[purpose_body("https://w3id.org/orchard/DropoutPrevention")],
        texts={"en": {"title": "Who may need support", "short": "A question of last year.", "full": ""}},
        published_at=(now - timedelta(days=400)).isoformat(),
        valid_until=(now - timedelta(days=30)).isoformat(),
        **shared,
    )
    return [current, expired]


@contextlib.contextmanager
def running_school(folder: Path) -> Iterator[School]:
    """Run ``orchard serve`` for a school and the demo's sign-in service for its learners."""
    port, sign_in_port = free_port(), free_port()
    settings = enrol(folder / "north", folder / "space", name="North School", port=port)
    sign_in = f"http://127.0.0.1:{sign_in_port}"
    jwks = create_issuer(settings.folder)
    text = settings.file.read_text(encoding="utf-8").replace(
        "[consent]\n",
        f'[consent]\nissuer = "{ISSUER}"\njwks = "{jwks}"\nclient_id = "orchard"\n'
        f'authorization_endpoint = "{sign_in}/north/authorize"\ntoken_endpoint = "{sign_in}/north/token"\n',
    )
    text = text.replace(
        "[management]\n",
        f'[management]\nissuer = "{STAFF_ISSUER}"\njwks = "{jwks}"\nclient_id = "orchard"\n'
        f'authorization_endpoint = "{sign_in}/staff/authorize"\ntoken_endpoint = "{sign_in}/staff/token"\n',
    )
    settings.file.write_text(text, encoding="utf-8")
    settings = Settings.load(settings.folder, {})
    url = settings.server.public_url
    realm = {
        "slug": "north",
        "name": "North School",
        "issuer": ISSUER,
        "client_id": "orchard",
        "redirect_uri": f"{url}/my/signed-in",
        **key_of(settings.folder),
        "learners": LEARNERS,
    }
    staff = {
        "slug": "staff",
        "name": "North School, staff",
        "issuer": STAFF_ISSUER,
        "client_id": "orchard",
        "redirect_uri": f"{url}/operate/signed-in",
        "audience": settings.participant.id,
        **key_of(settings.folder),
        "staff": STAFF,
    }
    (folder / "sign-in.json").write_text(json.dumps([realm, staff]), encoding="utf-8")
    fill(settings, notices(url), [str(one["subject"]) for one in LEARNERS])
    service = [sys.executable, "-m", "connector.demo.sign_in", str(folder / "sign-in.json"), str(sign_in_port)]
    school = [str(ORCHARD), "serve", str(settings.folder)]
    with (
        served(service, sign_in, "/pages.css", folder / "sign-in.log"),
        served(school, url, "/health/ready", folder / "school.log"),
    ):
        token = settings.management.token_file.read_text(encoding="utf-8").strip()
        yield School(url=url, sign_in=sign_in, settings=settings, token=token)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Run Debian's Chromium without a window."""
    with sync_playwright() as play:
        browser = _launch(play)
        try:
            yield browser
        finally:
            browser.close()


def _launch(play: Playwright) -> Browser:
    return play.chromium.launch(executable_path="/usr/bin/chromium", args=_ARGUMENTS)


@pytest.fixture(scope="package")
def school(tmp_path_factory: pytest.TempPathFactory) -> Iterator[School]:
    """Give a running school, one for all page tests."""
    with running_school(tmp_path_factory.mktemp("school")) as running:
        yield running


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Give a browser, one for all page tests."""
    # The machine may be busy with other tests; what is looked for is there or never comes.
    expect.set_options(timeout=20_000)
    with chromium() as running:
        yield running


Visit = Callable[..., Visitor]


@pytest.fixture
def visit(browser: Browser, school: School) -> Iterator[Visit]:
    """Give a way to open a fresh browser profile; at the end, nothing may have called anybody but this machine."""
    opened: list[tuple[BrowserContext, list[str], list[str]]] = []

    def open_one(size: tuple[int, int] = DESK, **options: object) -> Visitor:
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            **{"locale": "en-GB", **options},  # type: ignore[arg-type]
        )
        context.set_default_timeout(30_000)
        page = context.new_page()
        called: list[str] = []
        wrong: list[str] = []
        context.on("request", lambda request: called.append(request.url))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        opened.append((context, called, wrong))
        return Visitor(page=page, school=school, called=called, name="phone" if size == PHONE else "desk")

    yield open_one
    for context, called, wrong in opened:
        context.close()
        allowed = (f"{school.url}/", f"{school.sign_in}/")
        assert [url for url in called if not url.startswith(allowed)] == []
        assert [text for text in wrong if "Failed to load resource" not in text] == []


def downloaded(page: Page, name: str) -> dict[str, object]:
    """Follow the link of that name and return the JSON file it gives."""
    with page.expect_download() as waiting:
        page.get_by_role("link", name=name).click()
    document: dict[str, object] = json.loads(Path(waiting.value.path()).read_text(encoding="utf-8"))
    return document
