"""The built book, opened as a reader would: from the disk, in a browser, without a network."""

import re
from types import SimpleNamespace

import nbformat
import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page
from set_address import COLAB, ROOT, read_address, slug

BOOK = ROOT / "_build" / "html"
PAGES = re.findall(r"(?:file|root): (\S+)", (ROOT / "_toc.yml").read_text("utf-8"))
CHAPTERS = [page for page in PAGES if (ROOT / f"{page}.ipynb").exists()]


@pytest.fixture(scope="module")
def browser(chromium):
    if not BOOK.is_dir():
        pytest.fail("there is no built book: `make book` builds it")
    return chromium


def open_page(context: BrowserContext, name: str) -> SimpleNamespace:
    """Open a page of the book, wait for its mathematics, and note all it complained of."""
    page = context.new_page()
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda message: (
            complaints.append(message.text) if message.type in ("error", "warning") else None
        ),
    )
    page.goto((BOOK / f"{name}.html").as_uri(), wait_until="load")
    page.evaluate("() => window.MathJax?.startup?.promise")
    return SimpleNamespace(page=page, asked=asked, complaints=complaints)


def new_context(browser: Browser, **settings: object) -> BrowserContext:
    return browser.new_context(offline=True, reduced_motion="reduce", **settings)


@pytest.fixture(scope="module", params=PAGES)
def opened(browser, request):
    context = new_context(browser, viewport={"width": 1280, "height": 900})
    yield SimpleNamespace(name=request.param, **vars(open_page(context, request.param)))
    context.close()


@pytest.fixture
def page(opened) -> Page:
    return opened.page


def test_page_is_quiet_and_asks_nobody_else(opened):
    assert not opened.complaints
    assert not [url for url in opened.asked if not url.startswith(("file:", "data:", "blob:"))]


def test_mathematics_is_typeset(page):
    formulas = page.locator(".bd-article .math")
    assert formulas.count() == page.locator(".bd-article .math > mjx-container > svg").count()
    assert page.locator("[data-mml-node=merror], mjx-merror").count() == 0
    left = page.evaluate(
        """() => {
            const walker = document.createTreeWalker(
                document.querySelector('.bd-article'), NodeFilter.SHOW_TEXT);
            const found = [];
            while (walker.nextNode()) {
                const node = walker.currentNode;
                if (!node.parentElement.closest('pre, code, script, style')
                    && /\\\\[([a-zA-Z]|\\$/.test(node.data)) found.push(node.data);
            }
            return found;
        }"""
    )
    assert not left, "raw LaTeX in the text"


def test_figures_are_all_there_and_each_has_its_text(opened):
    images = opened.page.evaluate(
        """() => [...document.querySelectorAll('.bd-article img')].map(
            image => ({alt: image.alt, width: image.naturalWidth, src: image.src}))"""
    )
    assert all(image["width"] > 0 and len(image["alt"].split()) >= 5 for image in images), images
    if opened.name in CHAPTERS:
        notebook = nbformat.read(ROOT / f"{opened.name}.ipynb", as_version=4)
        figures = [
            output
            for cell in notebook.cells
            for output in cell.get("outputs", [])
            if "image/png" in output.get("data", {})
        ]
        assert len(figures) >= 1
        assert len(images) == len(figures)


def test_accessibility_by_the_rules_of_wcag(page):
    """Contrast, names of links and buttons, headings, landmarks, language: axe-core knows them."""
    assert serious(page) == []
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator(".bd-article h1").count() == 1
    assert page.locator("main").count() == 1


def serious(page: Page) -> list[str]:
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
    found = Axe().run(page, options={"runOnly": {"type": "tag", "values": tags}})
    return [
        f"{violation['id']}: {node['html'][:200]}"
        for violation in found.response["violations"]
        for node in violation["nodes"]
    ]


def test_folded_solutions_open_from_the_keyboard(opened):
    summaries = opened.page.locator(".bd-article details > summary")
    if opened.name in CHAPTERS:
        assert summaries.count() >= 1
    for summary in summaries.all():
        assert summary.evaluate("element => element.tabIndex") >= 0
        details = summary.locator("..")
        assert details.evaluate("element => element.open") is False, "a solution is shown at once"
        summary.focus()
        opened.page.keyboard.press("Enter")
        assert details.evaluate("element => element.open") is True


def test_launch_link_opens_this_chapter_in_colab(opened):
    links = opened.page.locator(f'a[href^="{COLAB}/"]')
    url, branch = read_address()
    here = f"{COLAB}/github/{slug(url)}/blob/{branch}/"
    targets = {link.get_attribute("href") for link in links.all()}
    if opened.name in CHAPTERS:
        assert f"{here}{opened.name}.ipynb" in targets
    for target in targets:
        assert target.startswith(here) and (ROOT / target.removeprefix(here)).exists(), target


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_never_scrolls_sideways_and_shows_figures_in_proportion(browser, name):
    context = new_context(
        browser, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True
    )
    page = open_page(context, name).page
    page.evaluate("document.querySelectorAll('details').forEach(item => item.open = true)")
    too_wide = page.evaluate(
        """() => document.documentElement.scrollWidth <= 360 ? [] :
            [...document.querySelectorAll('.bd-main *')]
                .filter(item => item.getBoundingClientRect().right > 361 && !item.closest('pre'))
                .map(item => item.outerHTML.slice(0, 100))"""
    )
    stretched = page.evaluate(
        """() => [...document.querySelectorAll('.bd-article img')].filter(image => Math.abs(
            image.width / image.height / (image.naturalWidth / image.naturalHeight) - 1) > 0.02
        ).map(image => image.alt)"""
    )
    context.close()
    assert too_wide == []
    assert stretched == []


@pytest.mark.parametrize("name", PAGES)
def test_dark_mode_keeps_text_readable_and_figures_on_white(browser, name):
    context = new_context(browser, color_scheme="dark")
    page = open_page(context, name).page
    theme = page.locator("html").get_attribute("data-theme")
    contrast = [line for line in serious(page) if line.startswith("color-contrast")]
    grounds = page.evaluate(
        """() => [...document.querySelectorAll('.bd-article .cell_output img')].map(
            image => getComputedStyle(image).filter)"""
    )
    context.close()
    assert theme == "dark"
    assert contrast == []
    assert set(grounds) <= {"none"}, "the colours that the text names are the ones that are seen"


def test_search_finds_a_chapter(browser):
    context = new_context(browser)
    page = context.new_page()
    page.goto((BOOK / "search.html").as_uri() + "?q=entropy")
    page.wait_for_selector("ul.search li")
    found = page.locator("ul.search li").all_inner_texts()
    context.close()
    assert any("Entropy" in text for text in found)


def test_the_table_of_contents_lists_each_page_once():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    files = [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    assert [contents["root"], *files] == PAGES
    assert len(set(files)) == len(files)
    assert all((BOOK / f"{page}.html").exists() for page in PAGES)
