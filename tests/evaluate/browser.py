"""Chromium without a window, told over a pipe in the DevTools protocol what to open, and asked what a reader sees.

`python -m tests.evaluate.browser PAGE.html FOLDER` takes pictures of a page, wide and narrow, light and dark.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (1280, 390)
SCHEMES = ("light", "dark")
CONTRAST = 4.5
"""Of text with what is behind it: level AA of the Web Content Accessibility Guidelines 2.2, 1.4.3."""
SMALLEST_PX = 9.0
_ANSWER_S = 60.0
_FLAGS = [
    *("--headless", "--remote-debugging-pipe", "--no-first-run", "--hide-scrollbars"),
    *("--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
# Every text that is seen, in which colour, before which, how large; every section is gone to.
_FACTS = """(async () => {
  await Promise.all(Array.from(document.images, (image) => image.decode().catch(() => null)));
  const seen = (element) => {
    const box = element.getBoundingClientRect();
    return box.width > 0 && box.height > 0 && getComputedStyle(element).visibility === "visible";
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (colour !== "rgba(0, 0, 0, 0)") return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const texts = [], cut = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.textContent.trim(), element = walk.currentNode.parentElement;
    if (!text || !seen(element)) continue;
    const style = getComputedStyle(element), drawn = element.closest("svg");
    const scale = drawn ? element.getScreenCTM().a : 1;
    const frame = drawn?.getBoundingClientRect(), box = element.getBoundingClientRect();
    if (drawn && (box.left < frame.left || box.right > frame.right)) cut.push(text);
    texts.push([text, drawn ? style.fill : style.color, behind(element), parseFloat(style.fontSize) * scale]);
  }
  const beyond = Array.from(document.querySelectorAll("circle, .point")).filter(
    (point) => point.getBoundingClientRect().right > document.documentElement.clientWidth).length;
  const covered = [];
  for (const link of document.querySelectorAll("nav a")) {
    const section = document.querySelector(link.getAttribute("href"));
    section.scrollIntoView();
    const heading = section.querySelector("h2").getBoundingClientRect();
    const at = document.elementFromPoint(heading.left + 1, heading.top + heading.height / 2);
    if (at === null || at.tagName !== "H2") covered.push(section.id);
  }
  const page = document.documentElement;
  page.scrollIntoView();
  return {
    sections: Array.from(document.querySelectorAll("section"), (section) => section.id),
    headings: Array.from(document.querySelectorAll("section h2")).filter(seen).map((h) => h.closest("section").id),
    pictures: Array.from(document.images, (image) => image.naturalWidth),
    overflow: page.scrollWidth - page.clientWidth,
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    texts, cut, covered, beyond,
  };
})()"""


@dataclass(frozen=True)
class Sight:
    """What a reader of a page has before him, and what went on to show it."""

    said: list[str]
    """On the console and in the browser's log, errors of scripts among it."""
    requests: list[str]
    """Every address but the page's own, pictures that are inside it aside."""
    facts: dict[str, Any]

    def problems(self) -> list[str]:
        """What is wrong with any page, in words."""
        facts = self.facts
        found = [f"said: {text}" for text in self.said]
        found += [f"asked for {address}" for address in self.requests]
        hidden = [name for name in facts["sections"] if name not in facts["headings"]]
        found += [f"the heading of {name} cannot be seen" for name in hidden]
        found += [f"the heading of {name} is covered" for name in facts["covered"]]
        found += [f"cut off by the edge of its chart: {text}" for text in facts["cut"]]
        if facts["beyond"]:
            found.append(f"{facts['beyond']} points of charts lie beyond the edge of the window")
        if bad := facts["pictures"].count(0):
            found.append(f"{bad} pictures are not shown")
        if facts["overflow"] > 0:
            found.append(f"is {facts['overflow']} px wider than the window")
        for text, colour, behind, size in facts["texts"]:
            if (ratio := contrast(colour, behind)) < CONTRAST:
                found.append(f"contrast {ratio:.2f}, {colour} on {behind}: {text[:40]}")
            if size < SMALLEST_PX:
                found.append(f"{size:.1f} px: {text[:40]}")
        return found


class Browser:
    """A running Chromium; `close` ends it."""

    def __init__(self, program: str, home: Path) -> None:
        self._ours, theirs = socket.socketpair()
        self._ours.settimeout(_ANSWER_S)
        self._log = home / "chromium.log"
        flags = [*_FLAGS, f"--user-data-dir={home / 'profile'}"]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")
        # It reads from descriptor 3 and writes to 4.
        script = 'pipe=$1; shift; exec "$@" 3<&"$pipe" 4>&"$pipe"'
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", script, "bash", str(theirs.fileno()), program, *flags],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        theirs.close()
        self._unread, self._number, self._events = b"", 0, []

    def look(self, page: Path, width: int, scheme: str, picture: Path | None = None) -> Sight:
        """Open a page in a window of `width`, light or dark; if asked, take a picture of all of it."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)

        def call(method: str, **parameters: Any) -> dict[str, Any]:
            return self._call(method, attached["sessionId"], **parameters)

        self._events.clear()
        for domain in ("Page", "Runtime", "Log", "Network"):
            call(f"{domain}.enable")
        call("Page.setLifecycleEventsEnabled", enabled=True)
        phone = width < 600
        size = {"width": width, "height": 844 if phone else 800, "mobile": phone}
        call("Emulation.setDeviceMetricsOverride", deviceScaleFactor=2 if phone else 1, **size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        call("Emulation.setEmulatedMedia", features=[feature])
        address = page.absolute().as_uri()
        loader = call("Page.navigate", url=address)["loaderId"]
        while not any(_is_loaded(event, loader) for event in self._events):
            self._events.append(self._receive())
        facts = self._facts(call)
        if picture is not None:
            shot = call("Page.captureScreenshot", captureBeyondViewport=True)
            picture.write_bytes(base64.b64decode(shot["data"]))
        sight = Sight(list(_said(self._events)), list(_asked(self._events, address)), facts)
        self._call("Target.closeTarget", targetId=target)
        return sight

    def _facts(self, call: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        answer = call("Runtime.evaluate", expression=_FACTS, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"]["value"]

    def _call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        self._ours.sendall(json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            self._events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            more = self._ours.recv(1 << 20)
            assert more, f"Chromium has ended:\n{self._log.read_text(errors='replace')}"
            self._unread += more
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)

    def close(self) -> None:
        """End it."""
        self._ours.close()
        try:
            self._process.wait(timeout=10)  # it leaves when the pipe is closed
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def chromium() -> str | None:
    """The program that CHROMIUM names, or one on the PATH; None where there is none."""
    if named := os.environ.get("CHROMIUM"):
        assert shutil.which(named), f"CHROMIUM is {named}, which is no program"
        return named
    return next(filter(None, map(shutil.which, NAMES)), None)


def contrast(one: str, other: str) -> float:
    """The ratio of two colours of CSS as `rgb(r, g, b)`, 1 to 21 (WCAG 2.2, "contrast ratio")."""
    lighter, darker = sorted(map(_luminance, (one, other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    assert colour.startswith("rgb("), f"{colour} is no opaque colour"
    levels = [int(part) / 255 for part in colour[4:-1].split(",")]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _is_loaded(event: dict[str, Any], loader: str) -> bool:
    told = event["params"]
    is_step = event["method"] == "Page.lifecycleEvent" and told["loaderId"] == loader
    return is_step and told["name"] == "load"


def _said(events: list[dict[str, Any]]):
    for event in events:
        told = event["params"]
        if event["method"] == "Runtime.consoleAPICalled":
            values = [str(each.get("value", each.get("description"))) for each in told["args"]]
            yield f"console.{told['type']}: {' '.join(values)}"
        elif event["method"] == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            yield details.get("exception", {}).get("description", details["text"])
        elif event["method"] == "Log.entryAdded":
            yield f"{told['entry']['level']}: {told['entry']['text']}"


def _asked(events: list[dict[str, Any]], own: str):
    for event in events:
        if event["method"] == "Network.requestWillBeSent":
            address = event["params"]["request"]["url"]
            if address != own and not address.startswith("data:"):
                yield address


def main(page: str, folder: str) -> None:
    """Take the pictures, and print what is wrong."""
    program = chromium()
    assert program, "no Chromium: install one, or name it in CHROMIUM"
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        browser = Browser(program, Path(home))
        try:
            for width in WIDTHS:
                for scheme in SCHEMES:
                    picture = Path(folder) / f"{Path(page).stem}-{width}-{scheme}.png"
                    sight = browser.look(Path(page), width, scheme, picture)
                    print(picture, *sight.problems(), sep="\n  ")
        finally:
            browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
