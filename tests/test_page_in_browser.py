"""The page of a result in a real browser: narrow and wide, light and dark, without a network, a script or a style."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from drawn_pages import drawn_input, result_of_shards
from helpers import Sharded
from test_page import HOSTILE, full_page, hostile_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

CONTRASTS = """
() => {
  const channels = (text) => {
    const found = text.match(/rgba?\\(([^)]+)\\)/);
    const [r, g, b, a = 1] = found[1].split(/[,/ ]+/).filter(Boolean).map(Number);
    return [r, g, b, a];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (element) => {
    const layers = [];
    for (let each = element; each; each = each.parentElement)
      layers.push(channels(getComputedStyle(each).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || ["SCRIPT", "title"].includes(element.tagName)) continue;
    const svg = element.closest("svg"), style = getComputedStyle(element);
    let below = ground(svg ? svg.parentElement : element);
    if (svg && element.matches(".count")) {
      const [x, y] = [element.getAttribute("x") - 9, element.getAttribute("y") - 12];
      const rect = svg.querySelector(`rect[x="${x}"][y="${y}"]`), paint = getComputedStyle(rect);
      const colour = channels(paint.fill);
      below = over([...colour.slice(0, 3), Number(paint.fillOpacity)], below);
    }
    const text = over(channels(svg ? style.fill : style.color), below);
    const [a, b] = [light(text), light(below)].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), element.textContent.trim().slice(0, 40)]);
  }
  return found;
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium that is installed on this machine."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, shapes: Sharded) -> dict[str, Path]:
    """Pages by name."""
    folder = tmp_path_factory.mktemp("pages")
    made = {
        "full": full_page(drawn_input(prompts=("photo", "plain"))),
        "many classes": full_page(drawn_input(2000, classes=60, domains=[f"site {n}" for n in range(30)])),
        "pictures": full_page(result_of_shards(shapes), shards=shapes.shards),
        "hostile": hostile_page(),
    }
    for name, page in made.items():
        (folder / f"{name}.html").write_bytes(page)
    return {name: folder / f"{name}.html" for name in made}


def opened(browser: Browser, path: Path, **options: Any) -> tuple[Page, list[str]]:
    """A page in a window of its own, offline, and what a quiet page has none of: messages, requests, dialogs."""
    context = browser.new_context(offline=True, **options)
    page, noise = context.new_page(), []
    page.on("console", lambda message: noise.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: noise.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (noise.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: request.url in (path.as_uri(),) or request.url.startswith("data:")
            or noise.append(f"request: {request.url}"))  # fmt: skip
    page.goto(path.as_uri())
    return page, noise


@pytest.mark.parametrize("name", ["full", "many classes", "pictures", "hostile"])
def test_a_page_is_quiet_fits_its_window_and_can_be_read(browser: Browser, pages: dict[str, Path], name: str):
    page, noise = opened(browser, pages[name])
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    for width, scheme in ((390, "light"), (390, "dark"), (1440, "light"), (1440, "dark")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, (width, scheme)
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 50
        assert not [each for each in contrasts if each[0] < 4.5], (width, scheme)
        paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).map(Number)")
        assert (sum(paper) < 200) == (scheme == "dark")
    assert page.evaluate("[...document.images].every((each) => each.complete && each.naturalWidth > 0)")
    assert noise == []
    page.context.close()


def test_a_table_is_sorted_by_a_click_and_filtered_by_a_word(browser: Browser, pages: dict[str, Path]):
    page, noise = opened(browser, pages["many classes"], viewport={"width": 1440, "height": 900})
    tables = page.locator("#tables table")

    def column(number: int) -> list[float]:
        texts = tables.locator(f"tbody tr td:nth-of-type({number})").all_inner_texts()
        return [float(each.split()[0]) for each in texts]

    before = column(1)
    button = tables.locator("thead button").nth(1)
    button.click()
    assert column(1) == sorted(before, reverse=True)
    button.click()
    assert column(1) == sorted(before) and column(1) != sorted(before, reverse=True)
    page.locator("#classes details summary").click()
    page.locator("#classes input").fill("thing 42")
    shown = page.locator("#classes details tbody tr:visible")
    texts = shown.all_inner_texts()
    assert "thing 42" in [text.split("\t")[0] for text in texts]
    assert len(texts) < 10 and all("thing 42" in text for text in texts)
    assert noise == []
    page.context.close()


def test_titles_of_sections_stay_above_their_rows_when_a_table_is_sorted(browser: Browser, pages: dict[str, Path]):
    page, _ = opened(browser, pages["full"])
    page.locator("#tables thead button").nth(2).click()
    for body in page.locator("#tables tbody").all():
        assert body.locator("tr").first.locator("th[scope=rowgroup]").count() == 1
    page.context.close()


def test_a_page_is_whole_without_its_script(browser: Browser, pages: dict[str, Path]):
    with_script, _ = opened(browser, pages["full"])
    without, _ = opened(browser, pages["full"], java_script_enabled=False)
    rows = [page.locator("tr").count() for page in (with_script, without)]
    assert rows[0] == rows[1] > 50 and without.locator("button, input").count() == 0
    assert without.locator("#classes td").first.is_visible()
    for page in (with_script, without):
        page.context.close()


def test_a_page_reads_as_plain_tables_where_a_server_forbids_its_style_and_script(
    browser: Browser, pages: dict[str, Path]
):
    """Jenkins sends such a policy."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    headers = {"Content-Security-Policy": "sandbox; default-src 'none'; img-src 'self'; style-src 'self'"}
    context.route("**/*", lambda route: route.fulfill(body=pages["full"].read_bytes(), content_type="text/html",
                                                      headers=headers))  # fmt: skip
    page = context.new_page()
    page.goto("http://reports.test/")
    assert page.locator("body").evaluate("(each) => getComputedStyle(each).maxWidth") == "none", "it has a style"
    text = page.locator("main").inner_text()
    assert "Complete. 1 image is unreadable" in text
    assert (
        page.locator("#tables tbody th").first.is_visible() and page.locator("#confusions svg text").first.is_visible()
    )
    context.close()


def test_hostile_names_are_seen_as_texts(browser: Browser, pages: dict[str, Path]):
    page, noise = opened(browser, pages["hostile"])
    page.wait_for_timeout(200)
    text = page.locator("#classes").inner_text()
    assert [each for each in HOSTILE[:6] if each in text] == list(HOSTILE[:6])
    assert noise == []
    page.context.close()
