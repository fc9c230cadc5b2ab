"""Unusual and damaged images through the command: each has a row, correct pixels and limited costs."""

import csv
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from digits.images.decode import DecodeError, decode
from tests.faults.fuzz import Results, predict, report
from tests.support import data
from tests.support.command import DIGITS
from tests.support.decoding_costs import Cost, measure_costs
from tests.support.hostile_tree import picture
from tests.support.networks import tiny_store
from tests.support.server import untracked

HERE = Path(__file__).resolve().parents[2]
FUZZ = [sys.executable, "-W", "ignore", "-m", "tests.faults.fuzz"]
GREYS = npt.NDArray[np.float64]
REFUSED_ODDITIES = {"cicp_pq.png", "issue#430.png"}
"""Files that are valid according to their authors but that Pillow cannot read either."""

CRASHING_DECODER = """
import os
from digits.images import decode

real = decode.decode
decode.decode = lambda content, **options: os.abort() if len(content) % 50 == 0 else real(content, **options)
"""
DEADLY_DECODER = """
import ctypes
from digits.images import decode

real = decode.decode

def deadly(content, **options):
    if content.endswith(b"SEGV"):
        ctypes.string_at(0)
    if content.endswith(b"MEMORY"):
        bytearray(600 * 2**20)
    while content.endswith(b"HANG"):
        pass
    return real(content, **options)

decode.decode = deadly
"""
PNGSUITE = list(data.contents("pngsuite"))


@pytest.fixture(scope="module")
def pngsuite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of PngSuite."""
    return data.unpack("pngsuite", tmp_path_factory.mktemp("data") / "pngsuite")


@pytest.fixture(scope="module")
def photographs() -> Path:
    """Return the folder of photographs in all EXIF orientations."""
    return data.larger_set("odd-images/exif-orientation")


def test_only_the_corrupt_files_of_pngsuite_are_not_predicted(pngsuite: Path, tmp_path: Path) -> None:
    rows = predict(pngsuite, tmp_path)
    assert [row["path"] for row in rows] == PNGSUITE
    refused = {Path(row["path"]).name for row in rows if row["status"] != "ok"}
    assert {row["status"] for row in rows} == {"ok", "unreadable", "not-an-image"}
    assert {name for name in refused if not name.startswith("x")} == REFUSED_ODDITIES
    assert all(bool(row["error"]) != bool(row["prediction"]) for row in rows)


def test_photographs_of_every_orientation_are_predicted(photographs: Path, tmp_path: Path) -> None:
    assert {row["status"] for row in predict(photographs, tmp_path)} == {"ok"}


def expected_greys(path: Path) -> GREYS:
    """Compute the expected pixels with Pillow, upright, 8 bits, on white: (H, W) float64 in 0..255."""
    with Image.open(path) as opened:
        colour = transparent_colour(path) if opened.format == "PNG" else None
        image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        return np.where(values == colour, 255, values / 257)
    if colour is not None:
        pixels = np.asarray(image.convert("RGB" if isinstance(colour, tuple) else "L"))
        seen_through = (pixels == colour).reshape(*pixels.shape[:2], -1).all(axis=2)
        return np.where(seen_through, 255, np.asarray(image.convert("L")).astype(float))
    layers = image.convert("RGBA")
    opacity = np.asarray(layers.getchannel("A")) / 255
    return np.asarray(layers.convert("RGB").convert("L")) * opacity + 255 * (1 - opacity)


def transparent_colour(path: Path) -> int | tuple[int, ...] | None:
    """Return the transparent colour of a PNG with grey or RGB pixels, in the values of Pillow's pixels."""
    content = path.read_bytes()
    depth, kind = content[24], content[25]
    place = content.find(b"tRNS")
    if place < 0 or kind not in (0, 2):
        return None
    numbers = struct.unpack_from(">H" if kind == 0 else ">HHH", content, place + 4)
    if kind == 0:
        return numbers[0] if depth == 16 else numbers[0] * 255 // (2**depth - 1)
    return tuple(number >> 8 for number in numbers) if depth == 16 else numbers


@pytest.mark.parametrize("name", PNGSUITE)
def test_the_pixels_of_pngsuite_differ_by_at_most_one_level(name: str, pngsuite: Path) -> None:
    path = pngsuite / name
    try:
        found = decode(path.read_bytes()).pixels.astype(float)
    except DecodeError:
        assert path.name.startswith("x") or path.name in REFUSED_ODDITIES
        return
    expected = expected_greys(path)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1


def test_the_pixels_of_photographs_match_on_average(photographs: Path) -> None:
    """Compare means, because a photograph may be decoded at a reduced size."""
    for path in photographs.glob("*.jpg"):
        found, expected = decode(path.read_bytes()).pixels.astype(float), expected_greys(path)
        height, width = found.shape
        reduced = Image.fromarray(expected.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
        assert abs(height / width - expected.shape[0] / expected.shape[1]) < 0.01
        assert np.abs(found - np.asarray(reduced)).mean() < 3


@pytest.mark.parametrize("source", ["pngsuite", "photographs"])
def test_unusual_images_decode_within_the_limits(source: str, request: pytest.FixtureRequest) -> None:
    files = sorted(path for path in request.getfixturevalue(source).rglob("*") if path.is_file())
    costs = list(measure_costs(files))
    assert len(costs) == len(files)
    assert not [cost for cost in costs if not cost.within_limits or cost.outcome in ("crashed", "timeout")]


def fuzz(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the fuzzing campaign."""
    given: dict[str, Any] = {**os.environ, **environment}
    return subprocess.run([*FUZZ, *options], cwd=HERE, env=given, capture_output=True, text=True, check=False)


@pytest.mark.campaign
def test_two_thousand_damaged_images_have_a_row_at_limited_cost() -> None:
    result = fuzz("--count", "2000")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2,000 damaged files" in result.stdout


@pytest.mark.parametrize("names", [["a.png"], ["a.png", "a.png", "b.png"], ["a.png", "c.png"]])
def test_a_missing_or_surplus_row_is_a_broken_promise(names: list[str], tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    for path in paths:
        Image.new("L", (28, 28)).save(path)
    found = Results()
    found.add(paths, [{"path": name, "status": "ok", "page": ""} for name in names])
    assert [fault for fault in report(found) if "have no row" in fault]
    whole = Results()
    whole.add(paths, [{"path": path.name, "status": "ok", "page": ""} for path in paths])
    assert list(report(whole)) == []
    assert sorted(cost.name for cost in whole.costs) == ["a.png", "b.png"]


def test_a_cost_above_ten_seconds_or_512_mib_exceeds_the_limits() -> None:
    assert Cost("x.png", "ok", seconds=9.9, growth=511 * 2**20).within_limits
    assert not Cost("x.png", "ok", seconds=10.1).within_limits
    assert not Cost("x.png", "ok", growth=513 * 2**20).within_limits


def test_costs_are_measured_after_a_decoder_has_crashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(CRASHING_DECODER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(HERE)]))
    files = [tmp_path / f"{length}.png" for length in (49, 50, 51)]
    for path in files:
        path.write_bytes(b"x" * int(path.stem))
    assert [cost.outcome for cost in measure_costs(files)] == ["not-an-image", "crashed", "not-an-image"]


def test_images_that_crash_the_decoder_lose_only_their_own_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Crash by a segmentation fault, by memory use and by an endless loop."""
    (tmp_path / "in").mkdir()
    for number in range(30):
        picture(number).save(tmp_path / "in" / f"{number:02}.png")
    for number, word in ((7, b"SEGV"), (8, b"MEMORY"), (20, b"HANG")):
        with (tmp_path / "in" / f"{number:02}.png").open("ab") as file:
            file.write(word)
    tiny_store(tmp_path / "store")
    expected, _ = predict_by_command(tmp_path)
    assert {row["status"] for row in expected.values()} == {"ok"}
    (tmp_path / "sitecustomize.py").write_text(DEADLY_DECODER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(HERE)]))
    found, errors = predict_by_command(tmp_path)
    fates = {"07.png": "crashed", "08.png": "too-large", "20.png": "timeout"}
    assert {path: row["status"] for path, row in found.items() if row != expected[path]} == fates
    assert found.keys() == expected.keys()
    assert all(found[path]["error"] and found[path]["sha256"] == expected[path]["sha256"] for path in fates)
    assert "killed by signal 11 at 07.png" in errors
    assert "killed by signal 14 at 20.png" in errors


def predict_by_command(place: Path) -> tuple[dict[str, dict[str, str]], str]:
    """Predict a folder with the command. Return its rows by path, and standard error."""
    table = place / "table.csv"
    options = ["--artifacts", str(place / "store"), "--max-seconds", "4"]
    done = subprocess.run(
        [DIGITS, "predict", str(place / "in"), "--out", str(table), *options],
        env=untracked(place),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with table.open(newline="", encoding="utf-8") as file:
        return {row["path"]: row for row in csv.DictReader(file)}, " ".join(done.stderr.split())
