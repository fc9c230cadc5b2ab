"""Tests of labelled arrays: joining, dropping duplicates, oversampling, splitting, and the checks before training."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from digits.data.arrays import (
    MAX_REPEATS,
    Finding,
    LabelledArrays,
    drop_duplicates,
    join,
    locate_test_sets,
    oversample_own,
    split_validation,
)
from digits.data.checks import check_arrays, check_structure, require_sound
from digits.data.config import ArraysConfig
from digits.errors import DataError

CONFIG = ArraysConfig()


def make_arrays(*, train=40, test=10, classes=2, seed=0):
    """Return distinct random images of 5 by 4 pixels, with the classes in turn as labels."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (train + test, 5, 4), np.uint8)
    labels = (np.arange(train + test) % classes).astype(np.uint8)
    names = tuple(map(str, range(classes)))
    return LabelledArrays(pixels[:train], labels[:train], pixels[train:], labels[train:], names)


def digest_of_test_set(data):
    """Return the digest by which a test set is recognized."""
    return locate_test_sets([data], ["any"])[0].sha256


def findings_of(data, config=CONFIG):
    """Return the findings about a dataset by the name of the check."""
    return {finding.check: finding for finding in check_arrays(data, config)}


class TestJoin:
    """Tests of `join`."""

    def test_training_images_and_test_images_are_concatenated_separately(self):
        """The order of the datasets is kept, in all four arrays."""
        first, second = make_arrays(seed=1), make_arrays(train=6, test=4, seed=2)
        joined = join([first, second])
        for name in ("train_pixels", "train_labels", "test_pixels", "test_labels"):
            expected = np.concatenate([getattr(first, name), getattr(second, name)])
            np.testing.assert_array_equal(getattr(joined, name), expected)
        assert joined.class_names == first.class_names

    def test_a_single_dataset_is_not_copied(self):
        """It may be memory-mapped."""
        only = make_arrays()
        assert join([only]) is only

    def test_datasets_with_different_classes_are_refused(self):
        """Otherwise label 0 would have two meanings."""
        other = replace(make_arrays(), class_names=("cat", "dog"))
        with pytest.raises(DataError, match=r"the classes are \('0', '1'\) and \('cat', 'dog'\)"):
            join([make_arrays(), other])

    @pytest.mark.parametrize("part", ["train", "test"])
    def test_datasets_with_different_image_sizes_are_refused(self, part):
        """One array holds images of one size."""
        whole = make_arrays()
        other = replace(whole, **{f"{part}_pixels": getattr(whole, f"{part}_pixels")[:, 1:]})
        with pytest.raises(DataError, match=rf"sizes of the {part}\w* images are \(5, 4\) and \(4, 4\)"):
            join([whole, other])

    def test_joining_no_datasets_is_refused(self):
        """There is nothing to train on."""
        with pytest.raises(DataError, match="no dataset"):
            join([])

    def test_labels_of_a_dataset_that_lacks_classes_are_renumbered(self):
        """Classes are matched by name."""
        other = make_arrays(train=4, test=2, classes=2, seed=3)
        joined = join([replace(other, class_names=("2", "0")), make_arrays(classes=3)])
        assert joined.class_names == ("0", "1", "2")
        assert joined.train_labels[:4].tolist() == [2, 0, 2, 0]
        assert joined.test_labels[:2].tolist() == [2, 0]
        assert joined.train_labels.dtype == np.uint8

    def test_files_and_findings_are_kept(self):
        """An image of a published dataset has no file."""
        finding = Finding("skipped", "2 images", 2, None, fatal=False)
        ours = replace(owned(make_arrays(train=3, test=1, seed=1), "a"), findings=(finding,))
        joined = join([make_arrays(train=2, test=2), ours])
        assert joined.train_files == ("", "", "a-train-0", "a-train-1", "a-train-2")
        assert joined.test_files == ("", "", "a-test-0")
        assert joined.findings == (finding,)
        assert not join([make_arrays(), make_arrays(seed=2)]).is_own


def owned(data, name):
    """Return a dataset as if you had labelled its images yourself, each in its own file."""
    return replace(
        data,
        train_files=tuple(f"{name}-train-{number}" for number in range(len(data.train_labels))),
        test_files=tuple(f"{name}-test-{number}" for number in range(len(data.test_labels))),
    )


def with_images(data, split, rows, pixels, labels):
    """Return a dataset with some images and their labels replaced."""
    images, numbers = data.pixels(split).copy(), data.labels(split).copy()
    images[rows], numbers[rows] = pixels, labels
    return replace(data, **{f"{split}_pixels": images, f"{split}_labels": numbers})


class TestDropDuplicates:
    """Tests of `drop_duplicates`."""

    def test_published_datasets_are_not_changed(self):
        """Their duplicates are kept, so that measures on their test images stay comparable."""
        parts = [make_arrays(), make_arrays()]
        assert drop_duplicates(parts) == parts
        ours = [owned(make_arrays(seed=1), "a")]
        assert drop_duplicates(ours) == ours

    @pytest.mark.parametrize("split", ["train", "test"])
    @pytest.mark.parametrize("theirs", ["train", "test"])
    def test_own_images_that_a_published_dataset_contains_are_dropped(self, split, theirs):
        """In any split: no published test image is used for training, and no published training image for testing."""
        published = make_arrays()
        ours = with_images(
            owned(make_arrays(seed=1), "a"), split, [1], published.pixels(theirs)[:1], published.labels(theirs)[:1]
        )
        for parts in ([published, ours], [ours, published]):
            first, second = drop_duplicates(parts)
            kept, left = (first, second) if parts[0] is published else (second, first)
            assert kept is published
            assert f"a-{split}-1" not in left.files(split)
            assert len(left.files("train")) + len(left.files("test")) == 49
            assert len(left.pixels(split)) == len(left.labels(split)) == len(left.files(split))
            (finding,) = left.findings
            assert (finding.check, finding.value, finding.fatal) == ("repeated-labels", 1, False)

    def test_an_image_in_two_own_datasets_is_kept_once(self):
        """It is kept in the first dataset, unless it is a test image of the other."""
        first, second = owned(make_arrays(seed=1), "a"), owned(make_arrays(seed=2), "b")
        second = with_images(second, "train", [0, 1], first.train_pixels[:2], first.train_labels[:2])
        second = with_images(second, "test", [5], first.train_pixels[2:3], first.train_labels[2:3])
        left = drop_duplicates([make_arrays(), first, second])
        assert left[1].train_files == tuple(f"a-train-{number}" for number in range(40) if number != 2)
        assert left[2].train_files == tuple(f"b-train-{number}" for number in range(2, 40))
        assert left[2].test_files == second.test_files

    def test_own_images_with_conflicting_labels_are_dropped_and_listed(self):
        """A published dataset is not changed by a label of your own."""
        published = make_arrays()
        ours = owned(make_arrays(seed=1), "a")
        ours = with_images(ours, "train", [7], published.test_pixels[:1], 1 - published.test_labels[:1])
        others = with_images(
            owned(make_arrays(seed=2), "b"), "test", [3], ours.train_pixels[8:9], 1 - ours.train_labels[8]
        )
        left = drop_duplicates([published, ours, others])
        assert left[0] is published
        assert {*ours.train_files} - {*left[1].train_files} == {"a-train-7", "a-train-8"}
        assert {*others.test_files} - {*left[2].test_files} == {"b-test-3"}
        (finding,) = left[1].findings
        assert finding.message == (
            "dropped 2 of your own images that another dataset labels differently: SHA-256 a-train-7, a-train-8"
        )

    def test_labels_are_compared_by_class_name(self):
        """The same class may have another number in another dataset."""
        ours = replace(owned(make_arrays(train=4, test=1, seed=1), "a"), class_names=("1", "0"))
        published = make_arrays(classes=2)
        ours = with_images(ours, "train", [0, 1], published.train_pixels[:2], [1, 0])
        (finding,) = drop_duplicates([published, ours])[1].findings
        assert finding.check == "repeated-labels"


class TestOversampleOwn:
    """Tests of `oversample_own`."""

    @settings(max_examples=60, deadline=None)
    @given(own=st.integers(1, 200), others=st.integers(1, 2000), share=st.floats(0, 0.9))
    def test_own_images_are_repeated_evenly_until_they_reach_the_share(self, own, others, share):
        """The share is reached to within one image. Each image occurs 1 to 50 times, and counts differ by at most 1."""
        is_own = np.random.default_rng(0).permutation(np.repeat([True, False], [own, others]))
        rows = np.arange(own + others) * 3
        found = oversample_own(rows, is_own, share=share)
        counts = np.bincount(found, minlength=3 * len(rows))[rows]
        assert (counts[~is_own] == 1).all()
        assert counts[is_own].max() - counts[is_own].min() <= 1
        total = counts[is_own].sum()
        assert own <= total <= MAX_REPEATS * own
        if own < total < MAX_REPEATS * own:
            assert abs(total - share * len(found)) <= 1

    def test_no_image_is_repeated_if_all_or_none_are_own(self):
        """The share of all images is fixed then."""
        rows = np.arange(5)
        for is_own in (np.ones(5, bool), np.zeros(5, bool)):
            assert oversample_own(rows, is_own, share=0.5).tolist() == rows.tolist()


class TestSplitValidation:
    """Tests of `split_validation`."""

    @settings(max_examples=60, deadline=None)
    @given(
        counts=st.lists(st.integers(2, 40), min_size=1, max_size=6),
        fraction=st.floats(0.01, 0.99),
        seed=st.integers(0, 2**31 - 1),
    )
    def test_the_split_is_a_stratified_partition(self, counts, fraction, seed):
        """Indices are ascending, each class is split by the fraction, and both sets contain each class."""
        labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.uint8)
        train, validation = split_validation(labels, fraction=fraction, seed=seed)
        assert sorted([*train, *validation]) == list(range(len(labels)))
        assert list(train) == sorted(train)
        assert list(validation) == sorted(validation)
        for label, count in enumerate(counts):
            held_back = int((labels[validation] == label).sum())
            assert 1 <= held_back < count
            assert abs(held_back - fraction * count) <= 1

    def test_the_split_is_a_function_of_the_seed(self):
        """The same seed gives the same split, and another seed gives another split."""
        labels = make_arrays(train=200).train_labels
        first, again, other = (split_validation(labels, fraction=0.2, seed=seed)[1] for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)
        assert len(first) == 40

    def test_a_class_with_one_image_is_refused(self):
        """It cannot be in both sets."""
        with pytest.raises(DataError, match="class 7 has one training image"):
            split_validation(np.array([3, 3, 7], np.uint8), fraction=0.5, seed=0)

    def test_splitting_no_images_is_refused(self):
        """There is nothing to split."""
        with pytest.raises(DataError, match="no training images"):
            split_validation(np.array([], np.uint8), fraction=0.5, seed=0)


class TestCheckArrays:
    """Tests of `check_arrays`."""

    def test_a_valid_dataset_has_one_finding_per_check_and_none_is_fatal(self):
        """The findings come in a fixed order."""
        data = make_arrays()
        findings = findings_of(data)
        assert list(findings) == [
            "structure",
            "missing-digits",
            "balance",
            "duplicates-across",
            "duplicates-in-training",
            "blank",
        ]
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
            ({"test_labels": np.full(10, 2, np.uint8)}, "10 test labels have no class: the highest label is 2"),
            ({"test_pixels": np.zeros((10, 6, 4), np.uint8)}, r"training images are \(5, 4\), test images \(6, 4\)"),
            ({"class_names": ("0",)}, "there is one class, 0"),
            ({"class_names": ("0", "0")}, "two classes have the same name"),
        ],
    )
    def test_an_invalid_structure_is_fatal_and_the_only_finding(self, changes, message):
        """The other checks rely on valid shapes, dtypes and labels."""
        data = replace(make_arrays(), **changes)
        (finding,) = check_arrays(data, CONFIG)
        assert finding == check_structure(data)
        assert finding.fatal
        with pytest.raises(DataError, match=message):
            require_sound([finding])

    def test_the_ratio_of_the_largest_class_to_the_smallest_is_limited(self):
        """A ratio of 4 is fatal at a limit of 3.9."""
        data = replace(make_arrays(), train_labels=np.repeat([0, 1], [32, 8]).astype(np.uint8))
        assert findings_of(data)["balance"].value == 4
        assert not findings_of(data)["balance"].fatal
        assert findings_of(data, ArraysConfig(max_imbalance=3.9))["balance"].fatal

    def test_a_class_without_training_images_is_fatal_whatever_the_limit(self):
        """A network cannot learn it."""
        data = replace(make_arrays(), train_labels=np.zeros(40, np.uint8))
        finding = findings_of(data, ArraysConfig(max_imbalance=1e9))["balance"]
        assert finding.fatal
        assert "the smallest, 1, has 0" in finding.message

    def test_test_images_that_are_also_training_images_are_limited(self):
        """Their share is compared with the limit."""
        data = make_arrays()
        leaky = replace(data, test_pixels=np.concatenate([data.train_pixels[:2], data.test_pixels[2:]]))
        finding = findings_of(leaky)["duplicates-across"]
        assert finding.fatal
        assert finding.value == 0.2
        assert finding.message == "2 of 10 test images are identical to a training image (20.00%)"
        assert not findings_of(leaky, ArraysConfig(max_duplicates=0.2))["duplicates-across"].fatal

    def test_duplicates_within_the_training_images_are_not_fatal(self):
        """They do not affect measures on the test images."""
        data = make_arrays()
        repeated = replace(data, train_pixels=data.train_pixels[[0, 0, 0, *range(3, 40)]])
        finding = findings_of(repeated)["duplicates-in-training"]
        assert finding.value == 2 / 40
        assert not finding.fatal

    @pytest.mark.parametrize("part", ["train_pixels", "test_pixels"])
    def test_images_of_a_single_colour_are_blank(self, part):
        """Any colour counts. An image in which one pixel differs is not blank."""
        data = make_arrays()
        pixels = getattr(data, part).copy()
        pixels[0], pixels[1], pixels[2] = 255, 0, 7
        pixels[2, 4, 3] = 8
        finding = findings_of(replace(data, **{part: pixels}))["blank"]
        assert finding.value == 2 / 50
        assert finding.fatal

    def test_findings_do_not_depend_on_the_memory_layout(self):
        """Arrays in Fortran order have the same findings."""
        data = make_arrays()
        turned = replace(data, test_pixels=np.asfortranarray(data.test_pixels))
        assert check_arrays(turned, CONFIG) == check_arrays(data, CONFIG)


class TestRequireSound:
    """Tests of `require_sound`."""

    def test_the_error_lists_each_fatal_finding_with_its_limit_and_setting(self):
        """Findings that are not fatal are not listed."""
        findings = [
            Finding("balance", "the largest is 9 times the smallest", 9, 5, fatal=True),
            Finding("blank", "80 of 100 images are blank", 0.8, 0.001, fatal=True),
            Finding("duplicates-across", "none", 0, 0.001, fatal=False),
        ]
        with pytest.raises(DataError) as caught:
            require_sound(findings)
        assert str(caught.value).splitlines() == [
            "the dataset cannot be used for training:",
            (
                "  - the largest is 9 times the smallest; the limit is 5; add images to the smallest class, or raise "
                "`max_imbalance` in the section `arrays` of the settings"
            ),
            (
                "  - 80 of 100 images are blank; the limit is 0.001; "
                "remove the blank images, or raise `max_blank` in the section `arrays` of the settings"
            ),
        ]


class TestDigestOfATestSet:
    """Tests of the digest of a test set, which shows whether two models were measured on the same images."""

    @settings(max_examples=30, deadline=None)
    @given(index=st.integers(0, 19), bit=st.integers(0, 7), part=st.sampled_from(["test_pixels", "test_labels"]))
    def test_any_changed_bit_changes_the_digest(self, index, bit, part):
        """This holds for pixels and for labels."""
        data = make_arrays(test=20)
        changed = getattr(data, part).copy()
        changed.reshape(-1)[index] ^= 1 << bit
        assert digest_of_test_set(replace(data, **{part: changed})) != digest_of_test_set(data)

    def test_the_digest_does_not_depend_on_memory_layout_or_machine(self):
        """A copy in Fortran order has the same digest, and a known array has a known digest."""
        data = make_arrays()
        turned = replace(data, test_pixels=np.asfortranarray(data.test_pixels))
        assert digest_of_test_set(turned) == digest_of_test_set(data)
        zeros = LabelledArrays(*([np.zeros((1, 1, 1), np.uint8), np.zeros(1, np.uint8)] * 2), ("a", "b"))
        assert digest_of_test_set(zeros) == "e36f7344e7b7d10b790b262ffa333dbbd328877d42472f26922b413faabbaff5"

    @given(shape=hnp.array_shapes(min_dims=3, max_dims=3, max_side=4))
    def test_the_digest_depends_on_the_shape(self, shape):
        """The same bytes in another shape have another digest."""
        data = make_arrays()
        flat = replace(data, test_pixels=np.zeros(shape, np.uint8))
        folded = replace(data, test_pixels=np.zeros((1, *shape), np.uint8))
        assert digest_of_test_set(flat) != digest_of_test_set(folded)

    def test_the_digest_depends_on_the_class_names(self):
        """The same images with other class names are another test set."""
        data = make_arrays()
        assert digest_of_test_set(replace(data, class_names=("a", "b"))) != digest_of_test_set(data)
