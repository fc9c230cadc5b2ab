"""Arrays: joining, splitting, the check before training, and the hash of the content."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from digits.data.arrays import (
    MOST_REPEATS,
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
    """Give distinct random images of 5 by 4 pixels, their labels counting round the classes."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (train + test, 5, 4), np.uint8)
    labels = (np.arange(train + test) % classes).astype(np.uint8)
    names = tuple(map(str, range(classes)))
    return LabelledArrays(pixels[:train], labels[:train], pixels[train:], labels[train:], names)


def digest_of_test_set(data):
    """Return the digest by which a test set is recognized."""
    return locate_test_sets([data], ["any"])[0].sha256


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

    def test_a_dataset_may_lack_classes(self):
        """Its labels are renumbered by their names."""
        other = make_arrays(train=4, test=2, classes=2, seed=3)
        joined = join([replace(other, class_names=("2", "0")), make_arrays(classes=3)])
        assert joined.class_names == ("0", "1", "2")
        assert joined.train_labels[:4].tolist() == [2, 0, 2, 0]
        assert joined.test_labels[:2].tolist() == [2, 0]
        assert joined.train_labels.dtype == np.uint8

    def test_keeps_files_and_findings(self):
        """A published image has no file."""
        finding = Finding("skipped", "2 images", 2, None, fatal=False)
        ours = replace(owned(make_arrays(train=3, test=1, seed=1), "a"), findings=(finding,))
        joined = join([make_arrays(train=2, test=2), ours])
        assert joined.train_files == ("", "", "a-train-0", "a-train-1", "a-train-2")
        assert joined.test_files == ("", "", "a-test-0")
        assert joined.findings == (finding,)
        assert not join([make_arrays(), make_arrays(seed=2)]).is_own


def owned(data, name):
    """Give a dataset as if its images had been labelled here, each in a file of its own."""
    return replace(
        data,
        train_files=tuple(f"{name}-train-{number}" for number in range(len(data.train_labels))),
        test_files=tuple(f"{name}-test-{number}" for number in range(len(data.test_labels))),
    )


def with_images(data, side, rows, pixels, labels):
    """Give a dataset with some images and their labels replaced."""
    images, numbers = data.pixels(side).copy(), data.labels(side).copy()
    images[rows], numbers[rows] = pixels, labels
    return replace(data, **{f"{side}_pixels": images, f"{side}_labels": numbers})


class TestWithoutRepeats:
    """What is in several datasets."""

    def test_published_datasets_are_left_as_they_are(self):
        """Whatever repeats in them."""
        parts = [make_arrays(), make_arrays()]
        assert drop_duplicates(parts) == parts
        ours = [owned(make_arrays(seed=1), "a")]
        assert drop_duplicates(ours) == ours

    @pytest.mark.parametrize("side", ["train", "test"])
    @pytest.mark.parametrize("theirs", ["train", "test"])
    def test_what_is_published_too_is_left_out_of_ours(self, side, theirs):
        """On whatever side: no test image of theirs is trained on, no training image of theirs tested on."""
        published = make_arrays()
        ours = with_images(
            owned(make_arrays(seed=1), "a"), side, [1], published.pixels(theirs)[:1], published.labels(theirs)[:1]
        )
        for parts in ([published, ours], [ours, published]):
            first, second = drop_duplicates(parts)
            kept, left = (first, second) if parts[0] is published else (second, first)
            assert kept is published
            assert f"a-{side}-1" not in left.files(side)
            assert len(left.files("train")) + len(left.files("test")) == 49
            assert len(left.pixels(side)) == len(left.labels(side)) == len(left.files(side))
            (finding,) = left.findings
            assert (finding.check, finding.value, finding.fatal) == ("repeated-labels", 1, False)

    def test_an_image_of_two_of_ours_stays_once(self):
        """In the first one, unless the other tests on it."""
        first, second = owned(make_arrays(seed=1), "a"), owned(make_arrays(seed=2), "b")
        second = with_images(second, "train", [0, 1], first.train_pixels[:2], first.train_labels[:2])
        second = with_images(second, "test", [5], first.train_pixels[2:3], first.train_labels[2:3])
        left = drop_duplicates([make_arrays(), first, second])
        assert left[1].train_files == tuple(f"a-train-{number}" for number in range(40) if number != 2)
        assert left[2].train_files == tuple(f"b-train-{number}" for number in range(2, 40))
        assert left[2].test_files == second.test_files

    def test_labels_that_differ_are_left_out_and_named(self):
        """Of ours: a published dataset is not changed by a label that was given here."""
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
            "2 images labelled here are left out, which another dataset labels differently: SHA-256 "
            "a-train-7, a-train-8"
        )

    def test_the_same_label_may_have_another_number(self):
        """Classes are compared by name."""
        ours = replace(owned(make_arrays(train=4, test=1, seed=1), "a"), class_names=("1", "0"))
        published = make_arrays(classes=2)
        ours = with_images(ours, "train", [0, 1], published.train_pixels[:2], [1, 0])
        (finding,) = drop_duplicates([published, ours])[1].findings
        assert finding.check == "repeated-labels"


class TestMixed:
    """Repeating what was labelled here."""

    @settings(max_examples=60, deadline=None)
    @given(own=st.integers(1, 200), others=st.integers(1, 2000), share=st.floats(0, 0.9))
    def test_the_share_is_reached_by_repeating(self, own, others, share):
        """To within one image; each once at least and 50 times at most, none more than once more than others."""
        is_own = np.random.default_rng(0).permutation(np.repeat([True, False], [own, others]))
        rows = np.arange(own + others) * 3
        found = oversample_own(rows, is_own, share=share)
        counts = np.bincount(found, minlength=3 * len(rows))[rows]
        assert (counts[~is_own] == 1).all()
        assert counts[is_own].max() - counts[is_own].min() <= 1
        total = counts[is_own].sum()
        assert own <= total <= MOST_REPEATS * own
        if own < total < MOST_REPEATS * own:
            assert abs(total - share * len(found)) <= 1

    def test_alone_nothing_is_repeated(self):
        """There is nothing to have a share of."""
        rows = np.arange(5)
        for is_own in (np.ones(5, bool), np.zeros(5, bool)):
            assert oversample_own(rows, is_own, share=0.5).tolist() == rows.tolist()


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
        turned = replace(data, test_pixels=np.asfortranarray(data.test_pixels))
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


class TestHeldOut:
    """The digest of a test set, which says whether two models were measured on the same images."""

    @settings(max_examples=30, deadline=None)
    @given(index=st.integers(0, 19), bit=st.integers(0, 7), part=st.sampled_from(["test_pixels", "test_labels"]))
    def test_changes_with_any_bit(self, index, bit, part):
        """One flipped bit anywhere gives another hash."""
        data = make_arrays(test=20)
        changed = getattr(data, part).copy()
        changed.reshape(-1)[index] ^= 1 << bit
        assert digest_of_test_set(replace(data, **{part: changed})) != digest_of_test_set(data)

    def test_is_of_the_content_alone(self):
        """A copy in another memory layout has the same hash, which is that of every machine."""
        data = make_arrays()
        turned = replace(data, test_pixels=np.asfortranarray(data.test_pixels))
        assert digest_of_test_set(turned) == digest_of_test_set(data)
        zeros = LabelledArrays(*([np.zeros((1, 1, 1), np.uint8), np.zeros(1, np.uint8)] * 2), ("a", "b"))
        assert digest_of_test_set(zeros) == "e36f7344e7b7d10b790b262ffa333dbbd328877d42472f26922b413faabbaff5"

    @given(shape=hnp.array_shapes(min_dims=3, max_dims=3, max_side=4))
    def test_tells_shapes_apart(self, shape):
        """The same bytes in another shape are other content."""
        data = make_arrays()
        flat = replace(data, test_pixels=np.zeros(shape, np.uint8))
        folded = replace(data, test_pixels=np.zeros((1, *shape), np.uint8))
        assert digest_of_test_set(flat) != digest_of_test_set(folded)

    def test_depends_on_the_class_names(self):
        """The same pictures under other names are another dataset."""
        data = make_arrays()
        assert digest_of_test_set(replace(data, class_names=("a", "b"))) != digest_of_test_set(data)
