"""Arrays: joining, splitting, the check before training, and the hash of the content."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from digits.arrays import (
    Finding,
    LabelledArrays,
    check_arrays,
    check_structure,
    hash_arrays,
    join,
    require_sound,
    split_validation,
)
from digits.config import ArraysConfig
from digits.errors import DataError

CONFIG = ArraysConfig()


def make_arrays(*, train=40, test=10, classes=2, seed=0):
    """Give distinct random images of 5 by 4 pixels, their labels counting round the classes."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (train + test, 5, 4), np.uint8)
    labels = (np.arange(train + test) % classes).astype(np.uint8)
    names = tuple(map(str, range(classes)))
    return LabelledArrays(pixels[:train], labels[:train], pixels[train:], labels[train:], names)


def findings_of(data, config=CONFIG):
    """Check a dataset, and give the findings by name."""
    return {finding.check: finding for finding in check_arrays(data, config)}


class TestJoin:
    """Datasets behind one another."""

    def test_puts_train_to_train_and_test_to_test(self):
        """The order of the parts is kept, in all four arrays."""
        first, second = make_arrays(seed=1), make_arrays(train=6, test=4, seed=2)
        joined = join([first, second])
        for name in ("train_pixels", "train_labels", "test_pixels", "test_labels"):
            expected = np.concatenate([getattr(first, name), getattr(second, name)])
            np.testing.assert_array_equal(getattr(joined, name), expected)
        assert joined.class_names == first.class_names

    def test_gives_a_single_part_back_uncopied(self):
        """One dataset, which may be memory-mapped, is not copied."""
        only = make_arrays()
        assert join([only]) is only

    def test_refuses_other_classes(self):
        """Label 0 must not mean two things."""
        other = replace(make_arrays(), class_names=("cat", "dog"))
        with pytest.raises(DataError, match=r"the classes are \('0', '1'\) and \('cat', 'dog'\)"):
            join([make_arrays(), other])

    @pytest.mark.parametrize("part", ["train", "test"])
    def test_refuses_other_sizes(self, part):
        """Images of two sizes can't be one array."""
        whole = make_arrays()
        other = replace(whole, **{f"{part}_pixels": getattr(whole, f"{part}_pixels")[:, 1:]})
        with pytest.raises(DataError, match=rf"sizes of the {part}\w* images are \(5, 4\) and \(4, 4\)"):
            join([whole, other])

    def test_refuses_no_datasets(self):
        """There is nothing to train on."""
        with pytest.raises(DataError, match="no dataset"):
            join([])


class TestSplitValidation:
    """The validation set."""

    @settings(max_examples=60, deadline=None)
    @given(
        counts=st.lists(st.integers(2, 40), min_size=1, max_size=6),
        fraction=st.floats(0.01, 0.99),
        seed=st.integers(0, 2**31 - 1),
    )
    def test_is_a_stratified_partition(self, counts, fraction, seed):
        """Every image is on one side, in ascending order, and each class is split by the fraction, both sides fed."""
        labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.uint8)
        train, validation = split_validation(labels, fraction=fraction, seed=seed)
        assert sorted([*train, *validation]) == list(range(len(labels)))
        assert list(train) == sorted(train)
        assert list(validation) == sorted(validation)
        for label, count in enumerate(counts):
            held_back = int((labels[validation] == label).sum())
            assert 1 <= held_back < count
            assert abs(held_back - fraction * count) <= 1

    def test_is_repeatable_and_depends_on_the_seed(self):
        """The same seed gives the same split, another seed another one."""
        labels = make_arrays(train=200).train_labels
        first, again, other = (split_validation(labels, fraction=0.2, seed=seed)[1] for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)
        assert len(first) == 40

    def test_refuses_a_class_of_one_image(self):
        """It can't be on both sides."""
        with pytest.raises(DataError, match="class 7 has one training image"):
            split_validation(np.array([3, 3, 7], np.uint8), fraction=0.5, seed=0)

    def test_refuses_no_images(self):
        """There is nothing to split."""
        with pytest.raises(DataError, match="no training images"):
            split_validation(np.array([], np.uint8), fraction=0.5, seed=0)


class TestCheckArrays:
    """The check before anything is trained."""

    def test_reports_every_check_of_a_sound_dataset(self):
        """Nothing is fatal, and each check says what it found."""
        data = make_arrays()
        findings = findings_of(data)
        assert list(findings) == ["structure", "balance", "duplicates-across", "duplicates-in-training", "blank"]
        assert not any(finding.fatal for finding in findings.values())
        assert findings["structure"].message == "40 training and 10 test images of 5 by 4 pixels"
        require_sound(findings.values())

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"train_pixels": np.zeros((40, 20), np.uint8)}, r"train pixels are \(40, 20\) uint8"),
            ({"test_pixels": np.zeros((0, 5, 4), np.uint8)}, "there are no test images; add some"),
            ({"train_pixels": np.zeros((40, 5, 4), np.float32)}, "float32"),
            ({"train_labels": np.zeros(39, np.uint8)}, r"train labels are \(39,\) uint8, expected \(40,\) uint8"),
            ({"test_labels": np.zeros(10, np.int64)}, r"test labels are \(10,\) int64"),
            ({"test_labels": np.full(10, 2, np.uint8)}, "10 test labels stand for no class: the highest is 2"),
            ({"test_pixels": np.zeros((10, 6, 4), np.uint8)}, r"training images are \(5, 4\), test images \(6, 4\)"),
            ({"class_names": ("0",)}, "there are 1 classes"),
            ({"class_names": ("0", "0")}, "two classes have the same name"),
        ],
    )
    def test_finds_faults_of_structure_and_stops_there(self, changes, message):
        """Wrong shapes, dtypes and labels are fatal, and the only finding."""
        data = replace(make_arrays(), **changes)
        (finding,) = check_arrays(data, CONFIG)
        assert finding == check_structure(data)
        assert finding.fatal
        with pytest.raises(DataError, match=message):
            require_sound([finding])

    def test_measures_the_balance(self):
        """The ratio of the largest class to the smallest is compared with the limit."""
        data = replace(make_arrays(), train_labels=np.repeat([0, 1], [32, 8]).astype(np.uint8))
        assert findings_of(data)["balance"].value == 4
        assert not findings_of(data)["balance"].fatal
        assert findings_of(data, ArraysConfig(max_imbalance=3.9))["balance"].fatal

    def test_an_empty_class_is_always_fatal(self):
        """What has no training image can't be learnt, whatever the limit."""
        data = replace(make_arrays(), train_labels=np.zeros(40, np.uint8))
        finding = findings_of(data, ArraysConfig(max_imbalance=1e9))["balance"]
        assert finding.fatal
        assert "the smallest, 1, has 0" in finding.message

    def test_finds_test_images_among_the_training_images(self):
        """Leaks are counted and compared with the limit."""
        data = make_arrays()
        leaky = replace(data, test_pixels=np.concatenate([data.train_pixels[:2], data.test_pixels[2:]]))
        finding = findings_of(leaky)["duplicates-across"]
        assert finding.fatal
        assert finding.value == 0.2
        assert finding.message == "2 of 10 test images are training images too, byte for byte (20.00%)"
        assert not findings_of(leaky, ArraysConfig(max_duplicates=0.2))["duplicates-across"].fatal

    def test_only_reports_duplicates_within_the_training_images(self):
        """They do no harm to the measurement."""
        data = make_arrays()
        repeated = replace(data, train_pixels=data.train_pixels[[0, 0, 0, *range(3, 40)]])
        finding = findings_of(repeated)["duplicates-in-training"]
        assert finding.value == 2 / 40
        assert not finding.fatal

    @pytest.mark.parametrize("part", ["train_pixels", "test_pixels"])
    def test_finds_images_of_one_colour(self, part):
        """Whatever the colour; an image with one other pixel is not blank."""
        data = make_arrays()
        pixels = getattr(data, part).copy()
        pixels[0], pixels[1], pixels[2] = 255, 0, 7
        pixels[2, 4, 3] = 8
        finding = findings_of(replace(data, **{part: pixels}))["blank"]
        assert finding.value == 2 / 50
        assert finding.fatal

    def test_takes_any_memory_layout(self):
        """Arrays that are not contiguous are compared as they are seen."""
        data = make_arrays()
        turned = replace(data, train_pixels=np.asfortranarray(data.train_pixels))
        assert check_arrays(turned, CONFIG) == check_arrays(data, CONFIG)


class TestRequireSound:
    """The refusal."""

    def test_names_each_fatal_finding_its_limit_and_the_setting(self):
        """The message says what was found, what was expected, what to do; what is not fatal is left out."""
        findings = [
            Finding("balance", "the largest is 9 times the smallest", 9, 5, fatal=True),
            Finding("blank", "80 of 100 images are of one colour", 0.8, 0.001, fatal=True),
            Finding("duplicates-across", "none", 0, 0.001, fatal=False),
        ]
        with pytest.raises(DataError) as caught:
            require_sound(findings)
        assert str(caught.value).splitlines() == [
            "the dataset must not be trained on:",
            (
                "  - the largest is 9 times the smallest; the limit is 5; add images to the smallest class, or raise "
                "`max_imbalance` of the arrays' settings"
            ),
            (
                "  - 80 of 100 images are of one colour; the limit is 0.001; "
                "take them out, or raise `max_blank` of the arrays' settings"
            ),
        ]


class TestHashArrays:
    """The hash of the content."""

    @settings(max_examples=30, deadline=None)
    @given(index=st.integers(0, 19), bit=st.integers(0, 7), part=st.sampled_from(["train_pixels", "test_labels"]))
    def test_changes_with_any_bit(self, index, bit, part):
        """One flipped bit anywhere gives another hash."""
        data = make_arrays(test=20)
        changed = getattr(data, part).copy()
        changed.reshape(-1)[index] ^= 1 << bit
        assert hash_arrays(replace(data, **{part: changed})) != hash_arrays(data)

    def test_is_of_the_content_alone(self):
        """A copy in another memory layout has the same hash, which is that of every machine."""
        data = make_arrays()
        turned = replace(data, train_pixels=np.asfortranarray(data.train_pixels))
        assert hash_arrays(turned) == hash_arrays(data)
        zeros = LabelledArrays(*([np.zeros((1, 1, 1), np.uint8), np.zeros(1, np.uint8)] * 2), ("a", "b"))
        assert hash_arrays(zeros) == "f88fccca6992b312fafcdca38919ba7e49fb5959e1190b24545d62a87c5467b2"

    @given(shape=hnp.array_shapes(min_dims=3, max_dims=3, max_side=4))
    def test_tells_shapes_apart(self, shape):
        """The same bytes in another shape are other content."""
        data = make_arrays()
        flat = replace(data, test_pixels=np.zeros(shape, np.uint8))
        folded = replace(data, test_pixels=np.zeros((1, *shape), np.uint8))
        assert hash_arrays(flat) != hash_arrays(folded)

    def test_depends_on_the_class_names(self):
        """The same pictures under other names are another dataset."""
        data = make_arrays()
        assert hash_arrays(replace(data, class_names=("a", "b"))) != hash_arrays(data)
