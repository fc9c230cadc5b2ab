"""How fast a person could be: 500 images labelled by a script at the keyboard of a real browser.

python -m benchmarks reviewing                   # needs Debian's chromium; a minute
python -m benchmarks reviewing --pictures DIR    # the screenshots of the guide too
"""

import argparse
import hashlib
import io
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks import browser
from digits import datasets
from digits.records import write_record
from digits.summaries import summary_path
from digits.tables import FIXED_COLUMNS, Csv, Row

IMAGES, ASKED, ANSWERED = 4_000, 500, 155
SIDE, INK = 120, 40
PATIENCE = 30
WRONG, UNCERTAIN, NO_DIGITS = 0.02, 0.06, 0.03


class Scans(NamedTuple):
    """A table to review: where it is, where the artifact root is, and what its images show, by their SHA-256."""

    table: Path
    root: Path
    truth: Mapping[str, str]


def make_scans(place: Path, count: int = IMAGES) -> Scans:
    """Write pictures of real digits, dark on paper, and a table as a model could have made it; some rows are wrong."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as downloads:
        data = datasets.load("mnist-sample", downloads=Path(downloads))
    folder = place / "scans"
    folder.mkdir(parents=True)
    rows: list[Row] = []
    truth = {}
    for number, (pixels, label) in enumerate(zip(data.train_pixels[:count], data.train_labels.tolist(), strict=False)):
        content = _png(_scan(pixels, random))
        name, sha256 = f"form-{number // 10:03}-field-{number % 10}.png", hashlib.sha256(content).hexdigest()
        (folder / name).write_bytes(content)
        truth[sha256] = str(label)
        rows.append(_row(name, sha256, label, random))
    table = place / "scans.csv"
    with table.open("wb") as file:
        Csv().join([Csv().encode(rows, FIXED_COLUMNS)], FIXED_COLUMNS, file)
    write_record(summary_path(table), {"source": str(folder)})
    return Scans(table, place / "artifacts", truth)


def _scan(pixels: npt.NDArray[np.uint8], random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draw a digit in ink on paper: (28, 28) uint8, light on dark -> (SIDE, SIDE) uint8, dark on light."""
    size = int(random.integers(80, SIDE - 4))
    ink = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
    page = np.zeros((SIDE, SIDE), np.float64)
    top, left = random.integers(0, SIDE - size, 2)
    page[top : top + size, left : left + size] = np.asarray(ink) / 255
    light = 228 + 14 * np.linspace(0, 1, SIDE) * random.normal() + random.normal(0, 2.5, (SIDE, SIDE))
    return (light * (1 - page) + INK * page).clip(0, 255).astype(np.uint8)


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _row(name: str, sha256: str, label: int, random: np.random.Generator) -> Row:
    chance, wrong = random.random(), random.random() < WRONG
    status = "uncertain" if chance < UNCERTAIN else "not-a-digit" if chance < UNCERTAIN + NO_DIGITS else "ok"
    confidence = random.uniform(0.3, 0.95) if status == "uncertain" else random.uniform(0.97, 0.9999)
    novelty = random.uniform(0, 9) if status == "not-a-digit" else random.uniform(-12, -2)
    prediction = str((label + 5 * wrong) % 10)
    return name, prediction, confidence, status, None, SIDE, SIDE, sha256, novelty, 1


@contextmanager
def served(scans: Scans, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `digits review`; give the process and the page's address. It is ended as by Ctrl-C."""
    digits = str(Path(sys.executable).with_name("digits"))
    command = [digits, "review", str(scans.table), "--artifacts", str(scans.root), "--no-browser", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            lines = iter(process.stderr)
            yield process, next(line.split()[-1] for line in lines if "http://" in line)
        finally:
            for number in (signal.SIGCONT, signal.SIGINT):
                process.send_signal(number)
            process.wait(PATIENCE)


def main() -> None:
    """Measure, or draw."""
    parser = argparse.ArgumentParser(description="Labelling by keyboard.")
    parser.add_argument("--pictures", type=Path)
    pictures = parser.parse_args().pictures
    with tempfile.TemporaryDirectory() as name:
        scans = make_scans(Path(name))
        with browser.chromium(Path(name) / "profile") as started:
            with served(scans, "--sample", str(ASKED)) as (_, address):
                _measure(started, address)
            if pictures:
                scans = make_scans(Path(name) / "other")
                with served(scans) as (_, address):
                    _draw(started, address, scans.truth, pictures)


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
"""Presses a key as soon as the next image is there, so that all the time that passes is ours."""


def _measure(started: Any, address: str) -> None:
    started.set_script_timeout(300)
    started.get(address)
    browser.wait_for_text(started, "answered")
    found = started.execute_async_script(TYPIST, ASKED)
    shown = sorted(found["shown"])
    print(
        f"{ASKED} images by keyboard: {found['typed'] / 1000:.1f} s until the last key, {found['saved'] / 1000:.1f} s "
        f"until all were saved ({1000 * ASKED / found['saved']:.0f} answers a second); from a key to the next image "
        f"{shown[len(shown) // 2]:.0f} ms in the median, {shown[int(0.99 * len(shown))]:.0f} ms in 99 of 100",
        flush=True,
    )


def _draw(started: Any, address: str, truth: Mapping[str, str], out: Path) -> None:
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
    print(f"review-light.png and review-dark.png are in {out}", flush=True)


if __name__ == "__main__":
    main()
