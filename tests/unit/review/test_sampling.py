"""Tests of the review queue and of the accuracy estimates."""

import hashlib
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digits.review.estimates import estimate, measure_progress
from digits.review.sampling import PredictedImage, ReviewQueue, build_queue, error_probability

SIMULATED = 500


def image(number: int, status: str = "ok", **changes: Any) -> PredictedImage:
    """Return a row of a table."""
    sha256 = hashlib.sha256(str(number).encode()).hexdigest()
    base = PredictedImage(sha256, f"{number}.png", status, str(number % 10), 0.9, -5.0, 1)
    return base._replace(**changes)


def folder(ok: int, uncertain: int = 0, no_digits: int = 0) -> list[PredictedImage]:
    """Return the rows of a table."""
    statuses = ["ok"] * ok + ["uncertain"] * uncertain + ["not-a-digit"] * no_digits
    return [image(number, status) for number, status in enumerate(statuses)]


def right_answers(queue: ReviewQueue, count: int | None = None) -> dict[str, str]:
    """Return labels that confirm the first images of a queue."""
    return {queued.image.sha256: queued.image.suggestion for queued in queue.images[:count]}


class TestQueue:
    """Tests of `build_queue`."""

    def test_has_every_flagged_image_and_a_sample_of_the_others(self) -> None:
        """Each image once."""
        queue = build_queue(folder(1000, 30, 20), size=40)
        assert [len(queue.images_of(stratum)) for stratum in ("uncertain", "not-a-digit", "sample")] == [30, 20, 40]
        assert {one.status for one in queue.images_of("sample")} == {"ok"}
        assert queue.confident == 1000
        assert len({queued.image.sha256 for queued in queue.images}) == 90

    def test_is_sorted_by_error_probability_with_the_sample_in_between(self) -> None:
        """Every third image is of the sample while there are both."""
        rows = [
            *folder(50),
            image(100, "uncertain", confidence=0.30),
            image(101, "not-a-digit", novelty=0.0),
            image(102, "uncertain", confidence=0.70),
            image(103, "not-a-digit", novelty=2.0),
            image(104, "not-a-digit", novelty=1000.0),
        ]
        queue = build_queue(rows, size=4).images
        assert [queued.image.path for queued in queue if queued.stratum != "sample"] == [
            f"{number}.png" for number in range(100, 105)
        ]
        assert [queued.stratum == "sample" for queued in queue] == [0, 0, 1, 0, 0, 1, 0, 1, 1]

    def test_error_probability_of_flagged_images(self) -> None:
        """Also for a novelty that would overflow an exponential."""
        assert error_probability(image(1, "uncertain", confidence=0.25)) == 0.75
        assert error_probability(image(1, "not-a-digit", novelty=0.0)) == 0.5
        assert 0 <= error_probability(image(1, "not-a-digit", novelty=1e9)) < 1e-300

    def test_has_images_of_the_same_content_once(self) -> None:
        """By the first of their paths; the population counts them once too."""
        rows = [image(1), image(1)._replace(path="copy.png"), image(2)]
        queue = build_queue(rows, size=10)
        assert sorted(one.path for one in queue.images_of("sample")) == ["1.png", "2.png"]
        assert queue.confident == 2

    def test_the_sample_keeps_its_random_order(self) -> None:
        """In a larger sample, a longer table and another order of rows; another model version has another order."""
        rows = folder(300)
        first = build_queue(rows, size=20).images_of("sample")
        assert build_queue(rows, size=50).images_of("sample")[:20] == first
        assert build_queue(rows[::-1], size=20).images_of("sample") == first
        longer = [one for one in build_queue(folder(400), size=60).images_of("sample") if one in rows]
        assert longer[:20] == first[:20]
        assert [one.sha256 for one in first] != sorted(one.sha256 for one in first)
        newer = build_queue([one._replace(model_version=2) for one in rows], size=20).images_of("sample")
        assert {one.sha256 for one in newer} != {one.sha256 for one in first}

    def test_every_image_has_the_same_probability_to_be_sampled(self) -> None:
        """Over 400 model versions, the counts of 40 images pass a chi-squared test."""
        counts = dict.fromkeys((one.sha256 for one in folder(40)), 0)
        for version in range(400):
            rows = [one._replace(model_version=version) for one in folder(40)]
            for one in build_queue(rows, size=10).images_of("sample"):
                counts[one.sha256] += 1
        spread = sum((count - 100) ** 2 / 75 for count in counts.values()) * 39 / 40
        assert 16 < spread < 74

    def test_leaves_out_images_with_a_label_from_another_version(self) -> None:
        """From all strata and from the population."""
        rows = folder(100, 10, 10)
        known = {one.sha256 for one in rows[::3]}
        queue = build_queue(rows, size=1000, is_labelled=lambda one: one.sha256 in known)
        assert queue.left_out == len(known) == 40
        assert queue.confident == 66
        assert not known & {queued.image.sha256 for queued in queue.images}

    def test_of_an_empty_table_is_empty(self) -> None:
        """There is nothing to estimate."""
        queue = build_queue([], size=5)
        assert queue == ReviewQueue((), 0, 0)
        progress = measure_progress(queue, lambda _: None)
        assert progress.confident is progress.table is None


class TestEstimate:
    """Tests of `estimate`."""

    @pytest.mark.parametrize(
        ("right", "judged", "low", "high"), [(195, 200, 0.94263, 0.99183), (200, 200, 0.98172, 1), (0, 5, 0, 0.52182)]
    )
    def test_in_a_large_population_is_the_clopper_pearson_interval(
        self, right: int, judged: int, low: float, high: float
    ) -> None:
        """Published limits, two-sided at 95 %."""
        found = estimate(right, judged, 10**7)
        assert found.share == right / judged
        assert found.low == pytest.approx(low, abs=2e-5)
        assert found.high == pytest.approx(high, abs=2e-5)

    @pytest.mark.parametrize("right", range(6))
    def test_is_a_point_when_all_rows_were_judged(self, right: int) -> None:
        """Its value is the share."""
        assert estimate(right, 5, 5)[3:] == (right / 5,) * 3

    @settings(max_examples=100, deadline=None)
    @given(st.integers(1, 60), st.data())
    def test_the_interval_contains_the_observed_share(self, population: int, data: Any) -> None:
        """It never contradicts the rows that were judged."""
        judged = data.draw(st.integers(1, population))
        right = data.draw(st.integers(0, judged))
        found = estimate(right, judged, population)
        low, high = round(found.low * population), round(found.high * population)
        assert right <= low <= high <= population - (judged - right)
        assert found.low <= found.share <= found.high

    @pytest.mark.parametrize(("population", "judged"), [(30, 8), (60, 59)])
    def test_the_interval_covers_every_true_share_in_95_of_100_samples(self, population: int, judged: int) -> None:
        """Computed exactly over all samples of small populations."""
        from scipy.stats import hypergeom

        found = [estimate(right, judged, population) for right in range(judged + 1)]
        for truth in range(population + 1):
            probabilities = hypergeom.pmf(range(judged + 1), population, truth, judged)
            covered = sum(
                probability
                for probability, one in zip(probabilities, found, strict=True)
                if one.low <= truth / population <= one.high
            )
            assert covered >= 0.95


def simulated(seed: int, *, stop: int | None = None) -> tuple[float, Any]:
    """Return the true accuracy of a table of 500 rows, and the progress of a review that stops at a random point.

    Rows with a low confidence are wrong more often, so that a biased sample would give a biased estimate.
    """
    generator = random.Random(seed)  # noqa: S311
    rows, truth = [], {}
    for number in range(seed * 1000, seed * 1000 + 500):
        confidence = generator.random()
        one = image(number, "uncertain" if confidence < 0.1 else "ok", confidence=confidence)
        rows.append(one)
        is_wrong = generator.random() < 0.3 * (1 - confidence)
        truth[one.sha256] = "not-a-digit" if is_wrong else one.prediction
    queue = build_queue(rows, size=60)
    asked = queue.images[: stop or generator.randrange(20, len(queue.images))]
    answers = {queued.image.sha256: truth[queued.image.sha256] for queued in asked}
    chosen = [one for one in rows if stop or one.status == "ok"]
    share = sum(truth[one.sha256] == one.prediction for one in chosen) / len(chosen)
    return share, measure_progress(queue, answers.get)


class TestProgress:
    """Tests of `measure_progress`."""

    def test_counts_answers_by_stratum(self) -> None:
        """Skipped images count as answered."""
        queue = build_queue(folder(100, 4, 2), size=10)
        answers = right_answers(queue, 5)
        answers[queue.images[0].image.sha256] = "skip"
        progress = measure_progress(queue, answers.get)
        assert sum(progress.done.values()) == 5
        assert progress.total == {"uncertain": 4, "not-a-digit": 2, "sample": 10}

    def test_the_interval_of_ok_rows_covers_the_truth_wherever_the_review_stops(self) -> None:
        """In at least 95 of 100 simulated reviews; the mean of the estimates is the truth."""
        found = [simulated(seed) for seed in range(SIMULATED)]
        estimates = [(truth, progress.confident) for truth, progress in found]
        covered = sum(one.low <= truth <= one.high for truth, one in estimates)
        assert covered / SIMULATED >= 0.95
        assert abs(sum(one.share - truth for truth, one in estimates)) / SIMULATED < 0.004

    def test_the_interval_of_all_rows_covers_the_truth_after_a_complete_review(self) -> None:
        """There is none before all flagged images are answered."""
        found = [simulated(seed, stop=10_000) for seed in range(SIMULATED)]
        covered = sum(progress.table.low <= truth <= progress.table.high for truth, progress in found)
        assert covered / SIMULATED >= 0.95
        assert all(progress.table.population == 500 for _, progress in found)
        assert simulated(1, stop=20)[1].table is None

    def test_only_sample_images_before_the_first_unanswered_one_count(self) -> None:
        """A label on a later image is ignored until then."""
        queue = build_queue(folder(100), size=10)
        answers = right_answers(queue, 3)
        late = queue.images[7].image
        answers[late.sha256] = "not-a-digit"
        found = measure_progress(queue, answers.get).confident
        assert found is not None
        assert (found.right, found.judged) == (3, 3)
        found = measure_progress(queue, {**right_answers(queue), **answers}.get).confident
        assert found is not None
        assert (found.right, found.judged) == (9, 10)

    def test_skipped_and_missing_images_are_not_judged(self) -> None:
        """The images after them count."""
        queue = build_queue(folder(100), size=6)
        answers = right_answers(queue, 5)
        skipped, gone = queue.images[0].image.sha256, queue.images[2].image.sha256
        answers[skipped] = "skip"
        del answers[gone]
        found = measure_progress(queue, answers.get).confident
        assert found is not None
        assert (found.right, found.judged) == (1, 1)
        found = measure_progress(queue, answers.get, is_gone=lambda sha256: sha256 == gone).confident
        assert found is not None
        assert (found.right, found.judged, found.population) == (3, 3, 100)

    def test_not_a_digit_is_wrong_for_an_ok_row_and_right_for_a_flagged_row(self) -> None:
        """A digit flagged as `not-a-digit` is wrong, whatever its class."""
        rows = [image(1), image(2, "not-a-digit"), image(3, "not-a-digit"), image(4, "uncertain")]
        answers = {
            rows[0].sha256: "not-a-digit",
            rows[1].sha256: "not-a-digit",
            rows[2].sha256: "3",
            rows[3].sha256: "4",
        }
        progress = measure_progress(build_queue(rows, size=5), answers.get)
        assert progress.confident == (0, 1, 1, 0, 0, 0)
        assert progress.table == (2, 4, 4, 0.5, 0.5, 0.5)

    def test_a_skipped_flagged_image_widens_the_interval_of_all_rows(self) -> None:
        """It may be right or wrong."""
        rows = [image(1), *(image(number, "uncertain") for number in range(2, 11))]
        answers = {one.sha256: one.prediction for one in rows}
        answers[rows[5].sha256] = "skip"
        found = measure_progress(build_queue(rows, size=5), answers.get).table
        assert found is not None
        assert (found.low, found.share, found.high) == (0.9, 1, 1)
        assert measure_progress(build_queue(rows[1:2], size=5), lambda _: "skip").table is None

    def test_a_table_of_flagged_rows_only_needs_no_sample(self) -> None:
        """Its accuracy is known when all are answered."""
        queue = build_queue(folder(0, 4), size=5)
        found = measure_progress(queue, right_answers(queue).get).table
        assert found is not None
        assert (found.judged, found.low, found.high) == (4, 1, 1)

    def test_is_converted_to_json_values(self) -> None:
        """Estimates by name, or null."""
        queue = build_queue(folder(3), size=3)
        record = measure_progress(queue, right_answers(queue, 1).get).as_record()
        assert record["confident"]["judged"] == 1
        assert record["done"] == {"uncertain": 0, "not-a-digit": 0, "sample": 1}
        assert measure_progress(queue, lambda _: None).as_record()["confident"] is None
