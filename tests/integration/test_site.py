"""The site: it builds strictly and without a network, every link in it leads somewhere, and a browser shows it."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from scripts import site_hooks

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage")
NO_NETWORK = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")


class Links(HTMLParser):
    """Links, things that a page loads, and places in it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.places: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        self.places |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        loaded = given.get("src") or (given.get("href") if tag == "link" and given.get("rel") != "canonical" else None)
        if loaded and not loaded.startswith("data:"):
            self.loaded.add(loaded)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Skips where mkdocs is not installed."""
    mkdocs = shutil.which("mkdocs", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if mkdocs is None:
        pytest.skip("the site is not built: mkdocs is not installed: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    words = [mkdocs, "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | NO_NETWORK | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Links]:
    """Every page, read."""
    return {page.resolve(): Links(page) for page in sorted(site.rglob("*.html"))}


def target(site: Path, page: Path, link: str) -> Path:
    """The file that a link leads to."""
    path = unquote(urlsplit(link).path)
    found = (site / path[1:] if path.startswith("/") else page.parent / path if path else page).resolve()
    return found / "index.html" if found.is_dir() else found


def test_every_link_inside_the_site_leads_somewhere(site: Path, pages: dict[Path, Links]) -> None:
    lost, followed = [], 0
    for page, found in pages.items():
        for link in {link for link in found.links | found.loaded if not urlsplit(link).scheme}:
            file, place = target(site, page, link), unquote(urlsplit(link).fragment)
            followed += 1
            wrong = not file.is_file() or (place and file in pages and place not in pages[file].places)
            lost += [f"{page.relative_to(site.resolve())}: {link}"] if wrong and not place.startswith("__") else []
    assert not lost and followed > 1000


def test_nothing_is_loaded_from_elsewhere(pages: dict[Path, Links]) -> None:
    assert not {link for found in pages.values() for link in found.loaded if urlsplit(link).netloc}


def test_every_document_is_a_page_and_every_public_name_is_in_the_reference(site: Path) -> None:
    documents = [path.relative_to(ROOT / "docs") for path in ROOT.glob("docs/**/*.md")]
    folders = [path.parent if path.stem == "README" else path.with_suffix("") for path in documents]
    assert not [str(folder) for folder in folders if not (site / folder / "index.html").is_file()]
    places = Links(site / "reference" / "index.html").places
    names = site_hooks.public_names(ROOT / "src" / "vldistill")
    assert names and not [name for name, home in names.items() if f"{home}.{name}" not in places]


def test_equations_are_drawn_by_the_browser_itself(site: Path) -> None:
    page = (site / "faq" / "index.html").read_text(encoding="utf-8")
    assert '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">' in page and "\\hat" not in page


class Quiet(SimpleHTTPRequestHandler):
    """A server that keeps its requests to itself."""

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One headless Chromium, which reaches nothing but this machine."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install '.[dev]'")
    binary, helper = next(filter(None, map(shutil.which, BROWSERS)), None), shutil.which("chromedriver")
    if not (binary and helper):
        pytest.skip("no Chromium: the site is not tried in a browser (Debian: apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    elsewhere = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    for flag in (*FLAGS, elsewhere, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(helper))
    yield started
    started.quit()


def show(driver: Any, url: str, width: int, scheme: str) -> None:
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 700}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    driver.get(url)
    driver.execute_script("localStorage.clear()")  # the theme that was shown last
    driver.get_log("browser")
    driver.get(url)


@pytest.mark.parametrize("page", ["", "faq/", "reference/", "tutorials/own_photos/"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_pages_are_shown_without_an_error(
    driver: Any, address: str, tmp_path: Path, width: int, scheme: str, page: str
) -> None:
    show(driver, address + page, width, scheme)
    assert not [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(ground[:3]) > 384) == (scheme == "light"), ground
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    kept = Path(os.environ.get("VLDISTILL_SCREENSHOTS", tmp_path))
    driver.save_screenshot(str(kept / f"{page.strip('/').replace('/', '-') or 'home'}-{width}-{scheme}.png"))
    assert driver.execute_script("return document.querySelectorAll('h1').length") == 1
