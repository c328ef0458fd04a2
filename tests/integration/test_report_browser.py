"""The report in a real browser, headless: what a reader sees and can do. Skipped where there is no Chromium."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_pages import HARD, SIMPLE, made_page

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install '.[dev]'")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One headless Chromium for all tests of this file, without a network."""
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    helper = shutil.which("chromedriver")
    if not (binary and helper):
        pytest.skip("no Chromium: the report is not tried in a browser (Debian: apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(helper))
    yield started
    started.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One report with captions that are hard to show, one of two runs with simple ones."""
    folder = tmp_path_factory.mktemp("pages")
    return {
        "hard": made_page(folder / "hard", captions=HARD),
        "two": made_page(folder / "two", captions=SIMPLE, runs=2),
    }


def show(driver: Any, page: Path, width: int = 1440, height: int = 900) -> None:
    # The window has a smallest width of about 500 pixels; the emulated screen of a phone has none.
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700},
    )
    prefer(driver, "light")
    driver.get(page.as_uri())
    driver.execute_script("localStorage.clear(); delete document.documentElement.dataset.theme")


def prefer(driver: Any, scheme: str, media: str = "") -> None:
    """The system's theme, and no moving: a click must not meet a page that still scrolls."""
    features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
    asked = [{"name": name, "value": value} for name, value in features.items()]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": asked})


def one(driver: Any, selector: str) -> Any:
    return driver.find_element(By.CSS_SELECTOR, selector)


def every(driver: Any, selector: str) -> list[Any]:
    return [element for element in driver.find_elements(By.CSS_SELECTOR, selector) if element.is_displayed()]


def numbers(driver: Any) -> list[int]:
    return [int(card.get_attribute("data-number")) for card in every(driver, ".set:not([hidden]) .pair")]


def focused(driver: Any) -> Any:
    return driver.switch_to.active_element


@pytest.mark.parametrize("page", ["hard", "two"])
@pytest.mark.parametrize("width", [390, 1440])
def test_it_opens_from_a_file_without_a_complaint(driver: Any, pages: dict[str, Path], page: str, width: int) -> None:
    driver.get_log("browser")
    driver.get_log("performance")
    show(driver, pages[page], width)
    assert driver.get_log("browser") == []
    assert driver.execute_script("return window.hacked") is None
    asked = [
        entry["message"] for entry in driver.get_log("performance") if "Network.requestWillBeSent" in entry["message"]
    ]
    assert not [message for message in asked if '"url":"http' in message], "nothing is fetched"
    inner, whole = driver.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
    assert inner == width and whole <= width, "nothing hangs over the edge"
    wide = driver.execute_script(
        "return [...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1"
        " && !e.closest('.scroll, pre, svg, .hidden')).map(e => e.className || e.tagName)"
    )
    assert wide == []
    assert all(driver.execute_script("return [...document.images].map(i => i.complete && i.naturalWidth > 0)"))


def test_every_caption_is_text_as_it_was_written(driver: Any, pages: dict[str, Path]) -> None:
    show(driver, pages["hard"])
    shown = driver.execute_script(
        "return [...document.querySelectorAll('.pair dd:first-of-type')].map(e => e.textContent)"
    )
    for caption in HARD[:10]:
        assert caption in shown
    right = driver.execute_script(
        "return [...document.querySelectorAll('.pair dd')].filter(e => getComputedStyle(e).direction == 'rtl').length"
    )
    assert right >= 2, "Hebrew and Arabic run from the right"
    assert one(driver, ".warnings").text == "A note with <b>markup</b>."


def test_filter_and_sort_the_gallery(driver: Any, pages: dict[str, Path]) -> None:
    show(driver, pages["two"])
    assert numbers(driver) == list(range(1, 13))
    one(driver, "#filter").send_keys("DOG beach")
    kept = numbers(driver)
    assert 0 < len(kept) < 12
    assert all("dog" in card.get_attribute("textContent") for card in every(driver, ".pair"))
    assert one(driver, "#shown").text == f"{len(kept)} of 12 pairs"
    one(driver, "#filter").send_keys(" nowhere")
    assert numbers(driver) == [] and one(driver, "#nothing").is_displayed()
    one(driver, "#clear").click()
    assert len(numbers(driver)) == 12 and focused(driver) == one(driver, "#filter")
    Select(one(driver, "#order")).select_by_value("image")
    expected = sorted(range(1, 13), key=lambda number: -(7 * (number - 1) % 12))
    assert numbers(driver) == expected
    one(driver, "#direction").click()
    assert numbers(driver) == expected[::-1]
    Select(one(driver, "#set")).select_by_index(1)
    assert len(numbers(driver)) == 12
    assert [element.text for element in every(driver, ".set h3")] == ["<b>other<⁄b> & 'run': bitraj-12-s1"]


def test_enlarge_and_walk_with_the_keyboard(driver: Any, pages: dict[str, Path]) -> None:
    show(driver, pages["two"])
    third = every(driver, ".shots")[2]
    third.send_keys(Keys.ENTER)
    title = one(driver, "#large-title")
    assert title.text.startswith("Pair 3,") and focused(driver) == one(driver, "#close")
    assert len(every(driver, "#large .shot img")) == 3 and len(every(driver, "#large .near")) == 3
    focused(driver).send_keys(Keys.ARROW_RIGHT)
    assert title.text.startswith("Pair 4,")
    one(driver, "#previous").click()
    one(driver, "#previous").click()
    one(driver, "#previous").click()
    assert title.text.startswith("Pair 1,") and not one(driver, "#previous").is_enabled()
    one(driver, "#large").send_keys(Keys.ESCAPE)
    assert not one(driver, "#large").is_displayed() and focused(driver) == third


def test_tables_sort_and_say_so(driver: Any, pages: dict[str, Path]) -> None:
    show(driver, pages["two"])
    heads = driver.find_elements(By.CSS_SELECTOR, "#results th[scope=col]")
    titles = [head.text for head in heads]
    recall = heads[titles.index("mean recall")]
    recall.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)

    def column() -> list[float]:
        cells = driver.find_elements(
            By.CSS_SELECTOR, f"#results tbody tr > :nth-child({titles.index('mean recall') + 1})"
        )
        return [float(cell.get_attribute("data-sort")) for cell in cells]

    assert recall.get_attribute("aria-sort") == "descending" and column() == sorted(column(), reverse=True)
    recall.find_element(By.TAG_NAME, "button").click()
    assert recall.get_attribute("aria-sort") == "ascending" and column() == sorted(column())
    assert [head.get_attribute("aria-sort") for head in heads].count("none") == len(heads) - 1


def test_the_theme_follows_the_system_until_it_is_chosen(driver: Any, pages: dict[str, Path]) -> None:
    show(driver, pages["two"])

    def paper() -> str:
        return driver.execute_script("return getComputedStyle(document.body).backgroundColor")

    light = paper()
    one(driver, "#theme").click()
    dark = paper()
    assert light != dark and one(driver, "#theme").text == "Light theme"
    driver.refresh()
    assert paper() == dark, "the choice is remembered"
    one(driver, "#theme").click()
    assert paper() == light
    driver.execute_script("localStorage.clear()")
    prefer(driver, "dark")
    driver.refresh()
    assert paper() == dark and one(driver, "#theme").text == "Light theme"


def test_the_retrieval_browser_answers(driver: Any, pages: dict[str, Path]) -> None:
    show(driver, pages["two"])
    box = "[data-browser='0'] "
    assert len(every(driver, box + ".query")) == 8
    one(driver, box + ".further").click()
    assert len(every(driver, box + ".query")) == 12
    first = every(driver, box + ".query")[1]
    assert [who.text.split("\n") for who in first.find_elements(By.CSS_SELECTOR, ".who")] == [
        ["bitraj-20-s0", "rank 1"], ["random:20", "rank 3"], ["full", "rank 1,234"],
    ]  # fmt: skip
    answers = first.find_elements(By.CSS_SELECTOR, ".top5")
    right = [[item.get_attribute("class") for item in answer.find_elements(By.TAG_NAME, "li")] for answer in answers]
    assert [row.index("right") if "right" in row else None for row in right] == [0, 2, None]
    thumb = answers[1].find_elements(By.TAG_NAME, "button")[2]
    assert thumb.get_attribute("aria-label").startswith("Right: photo")
    thumb.click()
    assert one(driver, "#large-title").text == "photo 1 <i>.jpg" and "two children" in one(driver, "#large-body").text
    one(driver, "#close").click()
    one(driver, box + ".differ").click()
    assert one(driver, box + ".count").text == "11 of 12 captions", "on one query all agree"
    driver.execute_script("arguments[0].click()", one(driver, box + "input[value=byImage]"))
    assert len(every(driver, box + ".texts")) == 3 * 8
    assert one(driver, box + ".count").text == "11 of 12 photos"


def test_the_keyboard_reaches_everything(driver: Any, pages: dict[str, Path]) -> None:
    show(driver, pages["two"])
    driver.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert focused(driver).get_attribute("class") == "skip" and focused(driver).location["y"] >= 0
    focused(driver).send_keys(Keys.ENTER)
    driver.switch_to.active_element.send_keys(Keys.TAB)
    assert driver.execute_script("return document.activeElement.closest('#results') !== null"), "past the navigation"
    unnamed = driver.execute_script(
        "return [...document.querySelectorAll('button, input, select, a, [tabindex=\"0\"], svg, table, dialog')]"
        ".filter(e =>"
        " !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.textContent.trim()"
        " || e.labels?.length || e.caption)).map(e => e.outerHTML.slice(0, 80))"
    )
    assert unnamed == []
    ids = driver.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(driver: Any, pages: dict[str, Path], scheme: str) -> None:
    show(driver, pages["two"])
    driver.execute_script("document.documentElement.dataset.theme = arguments[0]", scheme)
    found = driver.execute_script(CONTRAST)
    assert len(found) > 100
    low = sorted({f"{ratio:.2f} {what}" for ratio, what in found if ratio < 4.5})
    assert low == []


def test_it_prints(driver: Any, pages: dict[str, Path]) -> None:
    show(driver, pages["two"])
    paper = base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})["data"])
    assert paper.startswith(b"%PDF") and len(paper) > 20_000
    prefer(driver, "light", "print")
    assert not every(driver, ".tools") and not every(driver, "nav")


CONTRAST = """
const parse = (text) => { const c = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  c.fillStyle = text; c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data]; };
const known = new Map();
const rgba = (text) => known.get(text) ?? known.set(text, parse(text)).get(text);
const linear = (v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
const ground = (e) => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor);
  if (c[3] === 255) return c; } return [255, 255, 255, 255]; };
const out = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const e = walk.currentNode.parentElement;
  if (!walk.currentNode.data.trim() || !e.checkVisibility?.() || e.closest('script, style, noscript, .skip')) continue;
  const style = getComputedStyle(e);
  const ink = rgba(e.closest('svg') ? style.fill : style.color);
  const [a, b] = [light(ink), light(ground(e))].sort((x, y) => y - x);
  out.push([(a + 0.05) / (b + 0.05), e.tagName + '.' + (e.className.baseVal ?? e.className)]);
}
return out;
"""
