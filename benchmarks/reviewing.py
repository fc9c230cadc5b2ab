"""Speed of labelling: 500 images labelled by a script at the keyboard of a real browser.

python -m benchmarks reviewing                   # a minute; needs Debian's chromium and chromium-driver
python -m benchmarks reviewing --pictures DIR    # also saves the screenshots of the guide
"""

import argparse
import io
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from tests.support import browser
from tests.support.review_session import make_scans, serve_review

IMAGES = 500
ANSWERED = 155
"""Number of answers before the screenshots are taken."""


def main() -> None:
    """Print the speed of labelling, and save screenshots if asked to."""
    parser = argparse.ArgumentParser(description="Measure labelling by keyboard in a browser.")
    parser.add_argument("--pictures", type=Path, help="directory in which to save the screenshots of the guide")
    pictures = parser.parse_args().pictures
    with tempfile.TemporaryDirectory() as name:
        scans = make_scans(Path(name))
        with browser.chromium(Path(name) / "profile") as started:
            with serve_review(scans, "--sample", str(IMAGES)) as (_, address):
                _measure(started, address)
            if pictures:
                scans = make_scans(Path(name) / "other")
                with serve_review(scans) as (_, address):
                    _save_screenshots(started, address, scans.truth, pictures)


TYPIST = """
const done = arguments[arguments.length - 1], wanted = arguments[0], started = performance.now();
let shown = [], last = started;
const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const tick = setInterval(() => {
  if (!ready) return;
  shown.push(performance.now() - last);
  last = performance.now();
  if (shown.length > wanted) {
    clearInterval(tick);
    const typed = performance.now();
    const wait = setInterval(() => { if (!outbox.length) {
      clearInterval(wait);
      done({ typed: typed - started, saved: performance.now() - started, shown: shown.slice(1) });
    } }, 1);
    return;
  }
  press(["Enter", "3", "n", "Enter"][shown.length % 4]);
}, 1);
"""
"""Script that presses a key as soon as the next image appears, so that the page alone takes time."""


def _measure(started: Any, address: str) -> None:
    started.set_script_timeout(300)
    started.get(address)
    browser.wait_for_text(started, "answered")
    found = started.execute_async_script(TYPIST, IMAGES)
    shown = sorted(found["shown"])
    print(
        f"{IMAGES} images by keyboard: {found['typed'] / 1000:.1f} s until the last key, {found['saved'] / 1000:.1f} s "
        f"until all were saved ({1000 * IMAGES / found['saved']:.0f} answers per second); from a key to the next image "
        f"{shown[len(shown) // 2]:.0f} ms (median), {shown[int(0.99 * len(shown))]:.0f} ms (99th percentile)",
        flush=True,
    )


def _save_screenshots(started: Any, address: str, truth: Mapping[str, str], out: Path) -> None:
    from selenium.webdriver.common.by import By

    started.set_window_size(1180, 900)
    started.get(address)
    browser.wait_for_text(started, "answered")
    body, answered = started.find_element(By.TAG_NAME, "body"), 0
    while True:
        time.sleep(0.12)
        image = started.execute_script("return item(place)")
        if answered >= ANSWERED and image["stratum"] == "uncertain":
            break
        body.send_keys(truth[image["sha256"]])
        answered += 1
    time.sleep(1)
    for scheme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        started.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        time.sleep(0.5)
        picture = Image.open(io.BytesIO(started.get_screenshot_as_png())).convert("RGB")
        picture.quantize(128, dither=Image.Dither.NONE).save(out / f"review-{scheme}.png", optimize=True)
    print(f"saved review-light.png and review-dark.png in {out}", flush=True)


if __name__ == "__main__":
    main()
