"""Opens reports in a headless Chromium and does what a reader would:

    report_page.py PAGE.html… [--whole] [--browser PROGRAM] [--shots DIR]

Pages are opened from their files. Fails on anything on the console, on any request, and on whatever does not answer; with
`--whole` also if anything of `PARTS` is not visible. Needs the package `playwright` and a Chromium of the system. `--shots`
takes pictures.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

# What README.md says that the page of a run with prototypes and labels shows.
PARTS = {
    "figures": "#overview .figure",
    "curves": "#charts canvas",
    "prototypes with their best images": ".proto .best .thumb",
    "how pure prototypes are": ".proto .pure",
    "dead prototypes and copies": "#gallery-filter",
    "map": "#map-canvas",
    "nearest neighbours": "#neighbour-rows ol .thumb",
    "crops": "#crop-rows img",
    "settings": "#tables dl",
}

# The pixels of the map, read from a copy: reading from the canvas itself slows it down, and the browser says so.
PIXELS = """
  const canvas = document.getElementById('map-canvas'), copy = document.createElement('canvas');
  const { width, height } = Object.assign(copy, { width: canvas.width, height: canvas.height });
  const context = copy.getContext('2d', { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  const pixels = context.getImageData(0, 0, width, height).data;
"""
# The share of them that is drawn on.
DRAWN = f"""() => {{{PIXELS}
  let drawn = 0;
  for (let i = 3; i < pixels.length; i += 4) drawn += pixels[i] > 0;
  return drawn / (width * height);
}}"""
# Where images lie: the middle of what is drawn in the busiest of 16 × 16 parts.
BUSIEST = f"""() => {{{PIXELS}
  const counts = new Map(), parts = 16;
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) if (pixels[4 * (y * width + x) + 3] > 0) {{
    const cell = Math.floor(x * parts / width) + parts * Math.floor(y * parts / height);
    const [n, sx, sy] = counts.get(cell) ?? [0, 0, 0];
    counts.set(cell, [n + 1, sx + x, sy + y]);
  }}
  const [n, sx, sy] = [...counts.values()].sort((a, b) => b[0] - a[0])[0];
  const scale = width / canvas.getBoundingClientRect().width;
  return [sx / n / scale, sy / n / scale];
}}"""


class Reader:
    def __init__(self, browser, path, shots):
        self.path, self.shots, self.troubles = path, shots, []
        self.page = browser.new_page(viewport={"width": 1280, "height": 860}, color_scheme="light")
        self.page.on("console", lambda message: self.troubles.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        self.page.on("request", self.request)
        began = time.monotonic()
        self.page.goto(path.resolve().as_uri())
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        self.seconds = time.monotonic() - began
        self.page.evaluate("document.documentElement.style.scrollBehavior = 'auto'")

    def request(self, request):
        if not request.url.startswith(("file:", "blob:", "data:")):
            self.troubles.append(f"request: {request.url}")

    def hold(self, what, holds):
        if not holds:
            self.troubles.append(f"not so: {what}")

    def hold_soon(self, what, holds):
        """The same of what the page may take a moment for."""
        end = time.monotonic() + 10
        while not (so := holds()) and time.monotonic() < end:
            self.page.wait_for_timeout(50)
        self.hold(what, so)

    def has(self, part):
        return self.page.locator(f"#{part}").is_visible()

    def show(self, part, shot):
        self.page.evaluate("(part) => document.getElementById(part).scrollIntoView()", part)
        self.page.wait_for_timeout(250)
        if self.shots:
            self.page.screenshot(path=self.shots / f"{self.path.stem}-{shot}.png")

    def gallery(self):
        counts = lambda: self.page.eval_on_selector_all(".proto", "(cards) => cards.map((card) => +card.dataset.count)")
        self.page.select_option("#gallery-sort", label="Fewest images")
        rising = counts()
        self.hold("the gallery sorts by fewest images", rising and rising == sorted(rising))
        self.page.select_option("#gallery-sort", label="Most images")
        falling = counts()
        self.hold("the gallery sorts by most images", falling == sorted(falling, reverse=True))
        self.page.fill("#gallery-search", "0")
        self.hold("the gallery finds a prototype by its number", self.page.locator("#prototype-0").count() == 1)
        self.page.fill("#gallery-search", "")
        self.show("prototypes", "prototypes")

    def map(self):
        self.show("map", "map")
        self.hold_soon("the map shows points", lambda: self.page.evaluate(DRAWN) > 0)
        x, y = self.page.evaluate(BUSIEST)
        box = self.page.locator("#map-canvas").bounding_box()
        for dx, dy in [(0, 0), (8, 0), (0, 8), (-8, 0), (0, -8), (14, 14), (-14, -14)]:
            self.page.mouse.move(box["x"] + x + dx, box["y"] + y + dy)
            self.page.wait_for_timeout(100)
            if self.page.locator("#map-tip").is_visible():
                break
        self.hold("an image under the pointer is named", self.page.locator("#map-tip").is_visible())
        self.page.mouse.click(box["x"] + x + dx, box["y"] + y + dy)
        near = self.page.locator("#map-side .near .thumb")
        self.hold_soon("a chosen image shows its neighbours", lambda: near.count() > 0)
        before = self.page.evaluate(DRAWN)
        for key in ["+", "+", "ArrowLeft", "ArrowUp"]:
            self.page.keyboard.press(key)
        self.hold_soon("keys zoom and move", lambda: self.page.evaluate(DRAWN) != before)
        self.page.keyboard.press("0")
        self.page.click("#map-pictures")
        self.hold_soon("pictures are drawn", lambda: self.page.evaluate(DRAWN) > before)
        self.show("map", "pictures")

    def read(self, whole):
        for what, selector in PARTS.items() if whole else ():
            # Images load when they come into view.
            self.page.evaluate("(selector) => document.querySelector(selector)?.scrollIntoView()", selector)
            self.hold_soon(f"visible: {what}", self.page.locator(selector).first.is_visible)
        self.show("overview", "top")
        if self.has("prototypes"):
            self.gallery()
        if self.has("map"):
            self.map()
        for part in ["neighbours", "crops", "settings"]:
            if self.has(part):
                self.show(part, part)
        self.page.click("#theme")
        self.hold("it turns dark", self.page.evaluate("document.documentElement.dataset.theme") == "dark")
        self.show("overview", "dark")
        self.page.set_viewport_size({"width": 390, "height": 844})
        width = "document.documentElement.scrollWidth"
        self.hold_soon("it fits a phone of 390 pixels", lambda: self.page.evaluate(width) <= 390)
        self.show("overview", "phone")
        if self.has("map"):
            self.show("map", "phone-map")
        self.page.close()
        return self.troubles


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].rstrip(":"))
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--shots", type=Path)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--browser", default=shutil.which("chromium") or shutil.which("google-chrome"))
    args = parser.parse_args()
    if not args.browser:
        parser.error("there is no Chromium; install one or name it with --browser")
    if args.shots:
        args.shots.mkdir(parents=True, exist_ok=True)
    troubles = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.browser, args=["--no-sandbox"])
        for path in args.pages:
            reader = Reader(browser, path, args.shots)
            found = reader.read(args.whole)
            troubles += len(found)
            size = path.stat().st_size / 1e6
            print(f"{path}: {size:.1f} MB, there after {reader.seconds:.1f} s, {'all well' if not found else 'trouble'}")
            for trouble in found:
                print(f"  {trouble}")
        browser.close()
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
