"""Odd and damaged pictures through the console command: a row each, the right pixels, bearable costs."""

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
from tests.faults.fuzz import Found, _report, predict
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
"""Whole files by their makers' word, which Pillow can't read either."""

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


def test_each_file_of_pngsuite_has_a_row(pngsuite: Path, tmp_path: Path) -> None:
    """Those that are corrupt on purpose, and only those, without a prediction."""
    rows = predict(pngsuite, tmp_path)
    assert [row["path"] for row in rows] == PNGSUITE
    refused = {Path(row["path"]).name for row in rows if row["status"] != "ok"}
    assert {row["status"] for row in rows} == {"ok", "unreadable", "not-an-image"}
    assert {name for name in refused if not name.startswith("x")} == REFUSED_ODDITIES
    assert all(bool(row["error"]) != bool(row["prediction"]) for row in rows)


def test_each_photograph_is_predicted(photographs: Path, tmp_path: Path) -> None:
    """In any orientation."""
    assert {row["status"] for row in predict(photographs, tmp_path)} == {"ok"}


def expected_greys(path: Path) -> GREYS:
    """Work out by Pillow and the table's rules what is seen: upright, 8 bit, on white. (H, W) of 0..255."""
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
    """Read the one colour that a PNG of grey or RGB pixels calls transparent, as Pillow has its pixels."""
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
def test_the_pixels_of_pngsuite_are_right(name: str, pngsuite: Path) -> None:
    """To a level."""
    path = pngsuite / name
    try:
        found = decode(path.read_bytes()).pixels.astype(float)
    except DecodeError:
        assert path.name.startswith("x") or path.name in REFUSED_ODDITIES
        return
    expected = expected_greys(path)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1


def test_the_pixels_of_photographs_are_right(photographs: Path) -> None:
    """On average, as a photograph may be decoded at a part of its size."""
    for path in photographs.glob("*.jpg"):
        found, expected = decode(path.read_bytes()).pixels.astype(float), expected_greys(path)
        height, width = found.shape
        reduced = Image.fromarray(expected.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
        assert abs(height / width - expected.shape[0] / expected.shape[1]) < 0.01
        assert np.abs(found - np.asarray(reduced)).mean() < 3


@pytest.mark.parametrize("source", ["pngsuite", "photographs"])
def test_no_odd_picture_costs_too_much(source: str, request: pytest.FixtureRequest) -> None:
    """512 MiB at most, and an answer within the time that a row is promised in."""
    files = sorted(path for path in request.getfixturevalue(source).rglob("*") if path.is_file())
    costs = list(measure_costs(files))
    assert len(costs) == len(files)
    assert not [cost for cost in costs if not cost.within_limits or cost.outcome in ("crashed", "timeout")]


def fuzz(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the measurement."""
    given: dict[str, Any] = {**os.environ, **environment}
    return subprocess.run([*FUZZ, *options], cwd=HERE, env=given, capture_output=True, text=True, check=False)


@pytest.mark.campaign
def test_two_thousand_damaged_pictures() -> None:
    """A row each, most of them past the header check, none at too high a cost."""
    result = fuzz("--count", "2000")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2,000 damaged files" in result.stdout


@pytest.mark.parametrize("names", [["a.png"], ["a.png", "a.png", "b.png"], ["a.png", "c.png"]])
def test_a_row_too_few_or_too_many_is_told(names: list[str], tmp_path: Path) -> None:
    """It is a broken promise, as a missing one is."""
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    for path in paths:
        Image.new("L", (28, 28)).save(path)
    found = Found()
    found.take(paths, [{"path": name, "status": "ok"} for name in names])
    assert [fault for fault in _report(found) if "have no row" in fault]
    whole = Found()
    whole.take(paths, [{"path": path.name, "status": "ok"} for path in paths])
    assert list(_report(whole)) == []
    assert sorted(cost.name for cost in whole.costs) == ["a.png", "b.png"]


def test_what_is_expensive_is_told() -> None:
    """A broken promise is the measurement's failure."""
    assert Cost("x.png", "ok", seconds=9.9, growth=511 * 2**20).within_limits
    assert not Cost("x.png", "ok", seconds=10.1).within_limits
    assert not Cost("x.png", "ok", growth=513 * 2**20).within_limits


def test_a_decoder_that_dies_is_outlived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what measures the costs: the next file has its own."""
    (tmp_path / "sitecustomize.py").write_text(CRASHING_DECODER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(HERE)]))
    files = [tmp_path / f"{length}.png" for length in (49, 50, 51)]
    for path in files:
        path.write_bytes(b"x" * int(path.stem))
    assert [cost.outcome for cost in measure_costs(files)] == ["not-an-image", "crashed", "not-an-image"]


def test_pictures_that_kill_their_decoder_cost_a_row_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a segmentation fault, by eating memory, by never ending: the command goes on, and names each."""
    (tmp_path / "in").mkdir()
    for number in range(30):
        picture(number).save(tmp_path / "in" / f"{number:02}.png")
    for number, word in ((7, b"SEGV"), (8, b"MEMORY"), (20, b"HANG")):
        with (tmp_path / "in" / f"{number:02}.png").open("ab") as file:
            file.write(word)
    tiny_store(tmp_path / "store")
    expected, _ = predicted(tmp_path)
    assert {row["status"] for row in expected.values()} == {"ok"}
    (tmp_path / "sitecustomize.py").write_text(DEADLY_DECODER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(HERE)]))
    found, errors = predicted(tmp_path)
    fates = {"07.png": "crashed", "08.png": "too-large", "20.png": "timeout"}
    assert {path: row["status"] for path, row in found.items() if row != expected[path]} == fates
    assert found.keys() == expected.keys()
    assert all(found[path]["error"] and found[path]["sha256"] == expected[path]["sha256"] for path in fates)
    assert "killed by signal 11 at 07.png" in errors
    assert "killed by signal 14 at 20.png" in errors


def predicted(place: Path) -> tuple[dict[str, dict[str, str]], str]:
    """Predict a folder by the command; give its rows by path, and what the command says besides."""
    table = place / "table.csv"
    options = ["--artifacts", str(place / "store"), "--max-seconds", "2"]
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
