"""Tests of drawings of objects."""

import numpy as np
import pytest

from digits.data.objects import SILHOUETTES, draw_object


def test_pictures_are_square_and_an_object_fills_them_but_for_a_small_margin():
    random = np.random.default_rng(0)
    for picture in [draw_object(random) for _ in range(60)]:
        assert picture.dtype == np.uint8
        assert picture.shape[0] == picture.shape[1]
        drawn = picture != picture[np.argmax([picture[0, 0] in (0, 255)]), 0]
        spans = [np.ptp(np.flatnonzero(drawn.any(axis=axis))) + 1 for axis in (0, 1)]
        assert max(spans) >= len(picture) - 4


def test_objects_are_a_function_of_the_generator():
    first, again = ([draw_object(random) for _ in range(5)] for random in map(np.random.default_rng, (1, 1)))
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert len({picture.tobytes() for picture in first}) == 5


@pytest.mark.parametrize("draw", sorted(set(SILHOUETTES), key=SILHOUETTES.index), ids=lambda draw: draw.__name__)
def test_each_silhouette_has_an_inside_and_an_outside_and_varies(draw):
    random = np.random.default_rng(0)
    drawn = [draw(random) for _ in range(20)]
    assert len({inside.tobytes() for inside in drawn}) > 15
    assert 0.02 < np.mean(drawn) < 0.8
    assert set(np.unique(drawn)) == {0, 1}
