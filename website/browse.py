"""Opens every page of the built site in a browser: `python website/browse.py`.

Each page must load without an error in the console or a request that fails, have all of
its formulas typeset, fit a narrow screen, and link to pages and places that exist; and
the search must find something. `--screenshots FOLDER` takes pictures.
"""

import argparse
import contextlib
import functools
import http.server
import pathlib
import shutil
import sys
import threading
from typing import Any

from playwright.sync_api import (
    Browser,
    TimeoutError as PlaywrightTimeout,
    sync_playwright,
)


ROOT = pathlib.Path(__file__).parents[1]
BROWSERS = ["google-chrome", "chromium", "chromium-browser"]
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
TIMEOUT = 240_000  # ms, for machines that are busy
TYPESET = 20_000  # ms, for the formulas of a page
SCREENS: dict[str, dict[str, Any]] = {
    "wide": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "narrow": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
}
LOOK = """() => ({
  untypeset: document.querySelectorAll(".arithmatex:not(:has(.katex))").length,
  wrong: document.querySelectorAll(".katex-error").length,
  over: document.documentElement.scrollWidth - window.innerWidth,
  links: [...document.querySelectorAll("article a[href]")].map(a => a.href),
  ids: [...document.querySelectorAll("[id]")].map(e => e.id),
})"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server of files that does not report each request."""

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def main() -> int:
    """Open all pages; the number of faults is the exit status."""
    options = parse()
    handler = functools.partial(Quiet, directory=options.site)
    server = http.server.ThreadingHTTPServer(("localhost", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    root = f"http://localhost:{server.server_port}/"
    faults, ids, links = [], {}, []
    with sync_playwright() as playwright:
        program = options.browser
        browser = playwright.chromium.launch(executable_path=program, args=OPTIONS)
        for path in sorted(options.site.rglob("index.html")):
            folder = path.parent.relative_to(options.site).as_posix()
            url = root if folder == "." else f"{root}{folder}/"
            for screen in SCREENS:
                picture = options.screenshots and (
                    options.screenshots / f"{folder.replace('/', '-')}-{screen}.png"
                )
                found, seen = look(browser, url, screen, picture)
                faults += [f"{url} ({screen}): {fault}" for fault in found]
            ids[url] = set(seen["ids"])
            links += [(url, link) for link in seen["links"] if link.startswith(root)]
        if not search(browser, root, "relu"):
            faults.append("The search finds nothing.")
    faults += dangling(links, ids, options.site, root)
    print(*faults, sep="\n")
    print(f"{len(ids)} pages, {len(links)} links, {len(faults)} faults")
    return len(faults)


def look(
    browser: Browser, url: str, screen: str, picture: pathlib.Path | None
) -> tuple[list[str], dict[str, Any]]:
    """What is wrong with a page on this screen, and what is on it."""
    faults: list[str] = []
    context = browser.new_context(**SCREENS[screen])
    context.set_default_timeout(TIMEOUT)
    page = context.new_page()
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on("requestfailed", lambda request: faults.append(f"failed: {request.url}"))
    page.on(
        "console",
        lambda said: said.type == "error" and faults.append(f"console: {said.text}"),
    )
    page.goto(url, wait_until="networkidle")
    with contextlib.suppress(PlaywrightTimeout):  # what is left is counted below
        page.wait_for_function(f"() => ({LOOK})().untypeset == 0", timeout=TYPESET)
    seen = page.evaluate(LOOK)
    if picture:
        picture.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=picture)
    context.close()
    if seen["untypeset"] or seen["wrong"]:
        faults.append("formulas are not typeset: {untypeset}, {wrong}".format(**seen))
    if seen["over"] > 0:
        faults.append(f"{seen['over']} pixels too wide")
    return faults, seen


def dangling(
    links: list[tuple[str, str]],
    ids: dict[str, set[str]],
    site: pathlib.Path,
    root: str,
) -> list[str]:
    """Links to what is not there."""
    faults = []
    for url, link in links:
        target, _, place = link.partition("#")
        there = target in ids or (site / target.removeprefix(root)).is_file()
        if not there or (place and place not in ids.get(target, {place})):
            faults.append(f"{url}: nothing is at {link}")
    return sorted(set(faults))


def search(browser: Browser, root: str, word: str) -> bool:
    """Whether the search finds a word."""
    page = browser.new_page()
    page.set_default_timeout(TIMEOUT)
    page.goto(root, wait_until="networkidle")
    page.fill(".md-search__input", word)
    found = page.locator(".md-search-result__item")
    for _ in range(30):  # an empty list is no error, and never ends
        if found.count() > 0:
            return True
        page.wait_for_timeout(500)
    return False


def parse() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--site", type=pathlib.Path, default=ROOT / "site")
    installed = next(filter(None, map(shutil.which, BROWSERS)), None)
    parser.add_argument("--browser", default=installed, help="its program")
    parser.add_argument("--screenshots", type=pathlib.Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
