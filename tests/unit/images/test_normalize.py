"""Normalization: images of digits converted to MNIST's form."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import resources

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from digits.images.formats import Mode
from digits.images.normalize import SPEC, find_ink, has_mnist_form, have_mnist_form, normalize
from digits.images.types import Pixels


@pytest.fixture(scope="module")
def digits() -> Pixels:
    """Return the test images of the bundled sample, (1000, 28, 28) uint8."""
    with (resources.files("digits.data") / "sample" / "mnist-sample.npz").open("rb") as file, np.load(file) as arrays:
        images: Pixels = arrays["x_test"]
    return images


def difference(first: Pixels, second: Pixels) -> float:
    """Return by how many grey levels two images differ on average."""
    return float(np.abs(first.astype(int) - second).mean())


def large(digit: Pixels, side: int = 280) -> Pixels:
    """Return a digit, smoothly enlarged."""
    return np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC))


def box_and_centre(pixels: Pixels) -> tuple[int, float, float]:
    """Return the longer side of the ink's box, and the row and column of the centre of mass."""
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    side = max(int(np.ptp(rows)), int(np.ptp(columns))) + 1
    mass = pixels.sum()
    positions = np.arange(len(pixels))
    return side, float(pixels.sum(axis=1) @ positions / mass), float(pixels.sum(axis=0) @ positions / mass)


def test_mnist_images_are_returned_unchanged(digits: Pixels) -> None:
    """None of 1,000 images is copied."""
    assert all(normalize(digit) is digit for digit in digits)


def test_an_inverted_digit_is_normalized_to_almost_the_same_image(digits: Pixels) -> None:
    """Inverted, it is dark ink on white paper."""
    differences = [difference(normalize(255 - digit), digit) for digit in digits[:100]]
    assert np.mean(differences) < 5
    assert max(differences) < 25


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(large, id="large"),
        pytest.param(lambda d: large(d, 600), id="so large that it is reduced first"),
        pytest.param(lambda d: 255 - large(d), id="large and inverted"),
        pytest.param(lambda d: np.pad(large(d), ((0, 300), (200, 0))), id="off-centre"),
        pytest.param(lambda d: (255 - large(d)) // 4 + 100, id="faint pencil on grey paper"),
        pytest.param(lambda d: large(d)[10:270, 10:270], id="cropped"),
    ],
)
def test_size_polarity_position_and_contrast_make_little_difference(
    digits: Pixels, change: Callable[[Pixels], Pixels]
) -> None:
    """The normalized image is close to the original digit."""
    differences = [difference(normalize(change(digit)), digit) for digit in digits[:30]]
    assert np.mean(differences) < 8


def test_the_result_has_mnists_form(digits: Pixels) -> None:
    """The longer side of the box is about 20 pixels, and the centre of mass is at the centre of the image."""
    for digit in digits[:50]:
        side, row, column = box_and_centre(normalize(np.pad(large(digit), ((0, 99), (50, 0)))))
        assert 18 <= side <= 20
        assert abs(row - 14) < 1
        assert abs(column - 14) < 1


def test_a_gradient_on_the_paper_is_not_taken_for_ink() -> None:
    """The paper is darker on one side, with one stroke."""
    paper = np.tile(np.linspace(200, 255, 100).astype(np.uint8), (100, 1))
    paper[20:80, 48:52] = 20
    side, _, _ = box_and_centre(normalize(paper))
    assert side == 20


@pytest.mark.parametrize("blank", [np.zeros((28, 28)), np.full((1, 1), 255), np.full((50, 40), 128), np.eye(30) * 9])
def test_a_blank_page_is_all_background(blank: npt.NDArray[np.float64]) -> None:
    """The pages have one level, or marks that are too faint to be ink."""
    assert not normalize(blank.astype(np.uint8)).any()


def test_the_mode_mnist_normalizes_even_mnist_images(digits: Pixels) -> None:
    """The result is close to the original."""
    digit = digits[0]
    forced = normalize(digit, "mnist")
    assert forced is not digit
    assert difference(forced, digit) < 10


def test_the_mode_none_only_scales(digits: Pixels) -> None:
    """Polarity and position stay as they are."""
    digit = digits[0]
    assert normalize(digit, "none") is digit
    assert difference(normalize(255 - large(digit), "none"), 255 - digit) < 8


@pytest.mark.parametrize("mode", ["auto", "mnist", "none"])
def test_the_result_has_the_requested_shape(mode: Mode, digits: Pixels) -> None:
    """Networks may have other input sizes than 28x28."""
    assert normalize(large(digits[0]), mode, shape=(32, 48)).shape == (32, 48)


@settings(max_examples=200, deadline=None)
@given(
    pixels=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)),
    mode=st.sampled_from(["auto", "mnist", "none"]),
)
def test_any_image_can_be_normalized(pixels: Pixels, mode: Mode) -> None:
    """Images may be small, narrow or noisy."""
    result = normalize(pixels, mode)
    assert result.shape == (28, 28)
    assert result.dtype == np.uint8


@pytest.mark.parametrize("shape", [(1, 3000), (3000, 1), (2, 2), (700, 3), (4, 1), (1, 4)])
def test_images_of_extreme_shapes_can_be_normalized(shape: tuple[int, int]) -> None:
    """They are a line or a few pixels."""
    pixels = np.zeros(shape, np.uint8)
    pixels[shape[0] // 2, shape[1] // 2] = 255
    assert normalize(pixels).shape == (28, 28)


def test_an_image_that_fails_one_condition_does_not_have_mnists_form() -> None:
    """The conditions are size, polarity, box and centre."""
    centred = np.zeros((28, 28), np.uint8)
    centred[5:24, 11:18] = 255
    assert has_mnist_form(centred)
    wide, thin = np.zeros_like(centred), np.zeros_like(centred)
    wide[2:27, 11:18] = 255
    thin[11:18, 11:18] = 255
    for other in (255 - centred, np.roll(centred, 2, 0), np.roll(centred, 2, 1), wide, thin, centred[:27]):
        assert not has_mnist_form(other)
    assert not has_mnist_form(np.zeros_like(centred))


def test_many_images_are_found_to_have_mnists_form_as_single_ones_are(digits: Pixels) -> None:
    """They are digits, shifted, inverted and cropped ones, blank images, and a single pixel in every place."""
    moved = [np.roll(digits[:100], (down, right), (1, 2)) for down, right in ((0, 1), (1, 0), (-1, 1), (0, 3))]
    cropped = [np.where(np.arange(28) < width, digits[:100], 0) for width in (18, 20, 22, 24)]
    dots = np.eye(784, dtype=np.uint8).reshape(-1, 28, 28)
    images = np.concatenate([digits, 255 - digits[:100], *moved, *cropped, dots, np.zeros((1, 28, 28), np.uint8)])
    found = have_mnist_form(images)
    assert found.tolist() == [has_mnist_form(image) for image in images]
    assert found.any()
    assert not found.all()


def test_the_spec_can_be_stored_as_json() -> None:
    """It is stored with the model."""
    assert json.loads(json.dumps(SPEC)) == SPEC


# Realistic images, each made from a real digit: the normalized image must be close to the digit


def page_of(digit: Pixels, *, side: int = 200, size: tuple[int, int] = (320, 280)) -> npt.NDArray[np.float64]:
    """Return a page with a digit that is not in its centre, (*size) float64; 1 is full ink."""
    page = np.zeros(size)
    page[40 : 40 + side, 60 : 60 + side] = large(digit, side) / 255
    return page


def photo(ink: npt.NDArray[np.float64], *, seed: int = 0) -> Pixels:
    """Return dark ink on paper that is three times as dark on one side as on the other, with noise."""
    light = np.linspace(220, 70, ink.shape[1])
    noise = np.random.default_rng(seed).normal(0, 3, ink.shape)
    return np.clip(light * (1 - 0.7 * ink) + noise, 0, 255).astype(np.uint8)


def chalk(ink: npt.NDArray[np.float64]) -> Pixels:
    """Return light ink on an unevenly dark board."""
    return (np.linspace(90, 30, ink.shape[1]) * (1 - ink) + 200 * ink).astype(np.uint8)


def framed(ink: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return a page with lines of a grid along the top and the left edge."""
    cell = ink.copy()
    cell[4:8] = cell[:, 3:9] = 0.9
    return cell


def specked(ink: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return a page with specks far from the digit."""
    page = ink.copy()
    page[300:304, 20:25] = page[10:14, 250:254] = 1
    return page


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(photo, id="a shadow over half of it"),
        pytest.param(lambda ink: photo(framed(ink)), id="lines of a grid"),
        pytest.param(lambda ink: photo(specked(ink)), id="specks"),
        pytest.param(lambda ink: ((1 - specked(ink)) * 255).astype(np.uint8), id="specks on white"),
        pytest.param(chalk, id="chalk"),
        pytest.param(lambda ink: np.kron(photo(ink), np.ones((4, 4), np.uint8)), id="a megapixel"),
    ],
)
def test_a_realistic_image_is_normalized_to_the_digit_on_it(
    digits: Pixels, made: Callable[[npt.NDArray[np.float64]], Pixels]
) -> None:
    """The limit is the effect of a shift by half a pixel. Other digits of a class differ more than twice as much."""
    differences = [difference(normalize(made(page_of(digit))), digit) for digit in digits[:20]]
    assert np.mean(differences) < 14
    assert np.quantile(differences, 0.9) < 22


def test_paper_without_ink_is_blank() -> None:
    """A photo of an empty sheet has a shadow and noise, but no ink."""
    assert find_ink(photo(np.zeros((300, 200)))) is None
    assert not normalize(photo(np.zeros((300, 200)))).any()


@pytest.mark.parametrize(("inverted", "dark"), [(False, True), (True, False)])
def test_the_ink_has_its_polarity_and_box(digits: Pixels, inverted: bool, dark: bool) -> None:
    """The box encloses the digit."""
    picture = photo(page_of(digits[0]))
    ink = find_ink(255 - picture if inverted else picture)
    assert ink is not None
    assert ink.dark_on_light is dark
    assert ink.page.shape == ink.paper.shape == ink.levels.shape == (160, 140)
    top, left, bottom, right = ink.box
    rows, columns = np.flatnonzero((page_of(digits[0]) > 0.5).any(1)), np.flatnonzero((page_of(digits[0]) > 0.5).any(0))
    expected = (rows[0] / 2, columns[0] / 2, rows[-1] / 2 + 1, columns[-1] / 2 + 1)
    assert (top, left, bottom, right) == pytest.approx(expected, abs=4)
    assert not ink.others


def test_a_second_digit_is_reported(digits: Pixels) -> None:
    """One digit is chosen, and the box of the other is among the others."""
    pair = np.hstack([page_of(digits[0], size=(320, 300)), page_of(digits[1], size=(320, 300))])
    ink = find_ink(photo(pair))
    assert ink is not None
    assert len(ink.others) == 1


def width_of(pixels: Pixels) -> int:
    """Return the number of columns from the first to the last that holds ink."""
    return int(np.ptp(np.flatnonzero((pixels > 63).any(axis=0)))) + 1


def stretched(digit: Pixels, side: int) -> Pixels:
    """Return a digit's box, cut out and scaled to a square."""
    rows, columns = (np.flatnonzero((digit > 63).any(axis)) for axis in (1, 0))
    box = Image.fromarray(digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    return np.asarray(box.resize((side, side), Image.Resampling.BILINEAR))


def test_a_box_stretched_to_a_square_gets_about_its_original_width(digits: Pixels) -> None:
    """The error is much smaller than if the box stayed square."""
    widths = np.array([width_of(digit) for digit in digits[:200]])
    found = np.array([width_of(normalize(stretched(digit, 16))) for digit in digits[:200]])
    assert np.abs(found - widths).mean() < 0.65 * np.abs(20 - widths).mean()


def test_a_box_that_fills_an_image_that_is_not_square_keeps_its_proportions() -> None:
    """Such a box has not been stretched."""
    picture = np.zeros((20, 16), np.uint8)
    picture[:3] = picture[-3:] = picture[:, 7:9] = 255
    assert width_of(normalize(picture)) == 16


def slant_of(levels: npt.NDArray[np.float64]) -> float:
    """Return the slant of the least-squares line through the rows of ink, in columns per row."""
    rows, columns = np.indices(levels.shape)
    mass = levels.sum()
    down, across = rows - (rows * levels).sum() / mass, columns - (columns * levels).sum() / mass
    return float((levels * down * across).sum() / (levels * down**2).sum())


@pytest.mark.parametrize(("slant", "left"), [(0.3, 0.3), (-0.4, -0.4), (0.8, 0.5), (-1.0, -0.5), (1.4, 0.7)])
def test_only_a_strong_slant_is_reduced(slant: float, left: float) -> None:
    """A slant up to 0.5 stays; a stronger one is reduced to 0.5, but by at most 0.7."""
    picture = np.full((140, 220), 255, np.uint8)
    for row in range(20, 120):
        middle = round(110 + slant * (row - 70))
        picture[row, middle - 6 : middle + 7] = 0
    assert slant_of(normalize(picture).astype(np.float64)) == pytest.approx(left, abs=0.08)


def test_faint_ink_on_smooth_paper_is_read(digits: Pixels) -> None:
    """The ink is slightly darker than its paper, whose brightness varies from side to side."""
    slope = np.linspace(200, 240, 280)
    differences = [
        difference(normalize((slope - 18 * page_of(digit)).round().astype(np.uint8)), digit) for digit in digits[:20]
    ]
    assert np.mean(differences) < 16


def test_noise_as_strong_as_faint_ink_is_not_taken_for_ink() -> None:
    """It does not stand out from the noise around it."""
    noise = np.random.default_rng(1).normal(0, 6, (150, 150))
    assert find_ink((np.linspace(200, 240, 150) + noise).astype(np.uint8)) is None


def test_thick_strokes_are_not_hollowed(digits: Pixels) -> None:
    """The middle of a brush stroke is as full as its rim."""
    picture = np.zeros((120, 100))
    picture[15:105, 38:62] = 1
    normalized = normalize(photo(picture))
    middle = normalized[8:20, 13:15]
    assert middle.min() > 200


def test_opencv_is_not_loaded_for_images_in_mnists_form() -> None:
    """Loading it takes longer than predicting a few images."""
    code = """
import sys
import numpy as np
from digits.images.normalize import normalize
digit = np.zeros((28, 28), np.uint8)
digit[5:24, 11:18] = 255
assert normalize(digit) is digit
assert "cv2" not in sys.modules
normalize(255 - digit)
assert "cv2" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
