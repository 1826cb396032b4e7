"""The console in a real browser: an operator's way from the login to a reveal, on a real engine.

The browser has a page's keyboard, styles and policy; what the server answers is tested in tests/web/console.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, async_playwright, expect

from cordboard.simulator.client import Client
from cordboard.simulator.engine import EngineProcess
from cordboard.simulator.receiver import Receiver
from tests.journeys.world import ADMIN_TOKEN, PIN, Tenant, a_line, a_person, make_tenant

pytestmark = pytest.mark.ops

ENVIRONMENT = {
    "CORDBOARD_ADMIN_TOKEN": ADMIN_TOKEN,
    "CORDBOARD_CALLBACK_ALLOW": "127.0.0.1",
    # So that an event can be replayed after it was delivered.
    "CORDBOARD_DATA_KEY": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
}
NARROW_PX = 390


@dataclass(frozen=True)
class Stage:
    engine: EngineProcess
    tenant: Tenant
    agent: str
    customer: str
    stranger: str
    refused_sid: str
    allocation_id: str


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = [path for name in names if (path := shutil.which(name)) is not None]
    assert found, "no Chromium; `make test-ops` installs it"
    # Chromium's own sandbox refuses root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=found[0], args=[*arguments, "--disable-background-networking"]
        )
        yield browser
        await browser.close()


@pytest.fixture(scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """An engine with an allocation, a connected call, a refused one, and what subscribers were told."""
    directory: Path = tmp_path_factory.mktemp("console")
    async with (
        EngineProcess(directory / "data", ENVIRONMENT) as engine,
        aiohttp.ClientSession() as session,
        Receiver() as receiver,
    ):
        client = Client(session, engine.base_url, ADMIN_TOKEN)
        settings = {"max_pin_attempts": 2}
        tenant = await make_tenant(client, session, receiver, settings, [a_line(), a_line()])
        agent, customer, stranger = a_person(), a_person(), a_person()
        made = await tenant.allocate([agent], [customer], transaction_id="ORD-7781")
        talked = tenant.call(agent)
        await talked.passthru()
        await talked.connect()
        await talked.talk(customer, tenant.line)
        refused = tenant.call(stranger)
        await refused.select()
        await refused.enter("1111")
        assert await refused.enter("2222") == "reject"
        await tenant.all_events()
        yield Stage(engine, tenant, agent, customer, stranger, refused.call_sid, str(made["greenpin_id"]))


@pytest.fixture
async def context(browser: Browser, stage: Stage) -> AsyncIterator[BrowserContext]:
    context = await browser.new_context(base_url=stage.engine.base_url)
    yield context
    await context.close()


@pytest.fixture
async def page(context: BrowserContext) -> AsyncIterator[Page]:
    """A page that has nothing to complain of: no script error, and nothing that the policy had to stop."""
    page = await context.new_page()
    said: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            said.append(message.text)

    page.on("console", hear)
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    assert said == []


async def log_in(page: Page) -> None:
    """By keyboard alone."""
    await page.goto("/console")
    await expect(page.get_by_label("Your name")).to_be_focused()
    await page.keyboard.type("Asha")
    await page.keyboard.press("Tab")
    await page.keyboard.type(ADMIN_TOKEN)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Tenants")).to_be_visible()


async def choose(page: Page, stage: Stage) -> None:
    await page.get_by_role("link", name=stage.tenant.id, exact=True).click()
    await expect(page.get_by_role("heading", name="Find")).to_be_visible()


async def test_an_operator_finds_explains_replays_and_reveals(page: Page, stage: Stage) -> None:
    await log_in(page)
    await choose(page, stage)

    # Why was I refused?
    box = page.get_by_label("Allocation id, the client's id, CallSid or phone number")
    await expect(box).to_be_focused()
    await page.keyboard.type(f"0{stage.stranger[3:]}")
    await page.keyboard.press("Enter")
    await page.get_by_role("table", name="Calls (1)").get_by_role("link", name=stage.refused_sid).click()
    await expect(page.get_by_role("heading", name="Refused: wrong PINs")).to_be_visible()
    timeline = page.get_by_role("table", name="Timeline, hop by hop")
    await expect(timeline.get_by_text("Wrong PIN", exact=True)).to_have_count(2)
    await expect(page.locator("body")).not_to_contain_text(stage.stranger[3:])
    assert stage.stranger[3:] not in page.url

    # What would the same caller be answered now, and with the right PIN?
    await page.get_by_role("button", name="Dry-run this call now").click()
    await expect(page.get_by_role("heading", name="Asked for a PIN")).to_be_visible()
    await page.get_by_label("PIN entered").fill(PIN)
    await page.get_by_role("button", name="Explain", exact=True).click()
    await expect(page.get_by_role("heading", name="Connected")).to_be_visible()
    await expect(page.get_by_text("the PIN entered is its PIN")).to_be_visible()

    # Tell an event again.
    await page.get_by_role("link", name="Events").click()
    await page.get_by_label("Kind").select_option("Call completed")
    await page.get_by_role("button", name="Show").click()
    await page.get_by_role("link", name="Call completed").click()
    await page.get_by_role("button", name="Replay").click()
    await expect(page.get_by_role("status")).to_have_text("The event will be told again.")

    # See an allocation whole, once.
    await page.goto(f"/console/t/{stage.tenant.id}/allocations/{stage.allocation_id}")
    sides = page.locator(".sides")
    await expect(sides).not_to_contain_text(stage.agent)
    await page.get_by_role("button", name="Reveal numbers and PINs").click()
    for whole in (stage.agent, stage.customer, PIN):
        await expect(sides).to_contain_text(whole)
    await page.get_by_role("link", name="Mask them again").click()
    await expect(sides).not_to_contain_text(stage.agent)

    await page.get_by_role("link", name="Audit log").click()
    log = page.get_by_role("table")
    for done in ("Revealed numbers and PINs: allocation", "Replayed: event", "Logged in"):
        await expect(log.get_by_text(done)).to_be_visible()

    await page.get_by_role("button", name="Log out Asha").click()
    await page.goto(f"/console/t/{stage.tenant.id}")
    await expect(page).to_have_url(re.compile("/console/login"))


async def test_the_first_tab_skips_to_the_content(page: Page, stage: Stage) -> None:
    await log_in(page)
    await page.goto(f"/console/t/{stage.tenant.id}/pool")
    await page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    await expect(skip).to_be_focused()
    await expect(skip).to_be_in_viewport()
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).to_be_focused()
    await page.keyboard.press("Tab")
    await expect(page.get_by_label("Virtual number")).to_be_focused()
    outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_no_page_is_wider_than_a_phone(browser: Browser, stage: Stage, scheme: str) -> None:
    context = await browser.new_context(
        base_url=stage.engine.base_url,
        viewport={"width": NARROW_PX, "height": 844},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = await context.new_page()
    await log_in(page)
    root = f"/console/t/{stage.tenant.id}"
    grounds = set()
    for path in (
        "/console",
        "/console/audit",
        root,
        f"{root}/allocations/{stage.allocation_id}",
        f"{root}/calls?call_sid={stage.refused_sid}",
        f"{root}/dry-run",
        f"{root}/pool",
        f"{root}/events",
        f"{root}/throttles",
        f"{root}/settings",
    ):
        await page.goto(path)
        widths = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert widths[0] <= widths[1] == NARROW_PX, path
        grounds.add(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds == {"rgb(22, 24, 28)" if scheme == "dark" else "rgb(255, 255, 255)"}
    await context.close()


async def test_the_policy_stops_a_script_that_gets_into_a_page(context: BrowserContext) -> None:
    page = await context.new_page()
    await page.goto("/console/login")
    stopped = await page.evaluate(
        """() => new Promise(resolve => {
            document.addEventListener("securitypolicyviolation", event => resolve(event.effectiveDirective));
            const script = document.createElement("script");
            script.textContent = "document.title = 'mine'";
            document.body.append(script);
        })"""
    )
    assert stopped.startswith("script-src")
    assert await page.title() != "mine"
