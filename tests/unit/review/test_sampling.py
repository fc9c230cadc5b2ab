"""Which images a review asks about, and what the answers say about the table."""

import hashlib
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digits.review.estimates import estimate, measure_progress
from digits.review.sampling import Image, ReviewQueue, build_queue, error_probability

SIMULATED = 500


def image(number: int, status: str = "ok", **changes: Any) -> Image:
    """Give a row of a table."""
    sha256 = hashlib.sha256(str(number).encode()).hexdigest()
    base = Image(sha256, f"{number}.png", status, str(number % 10), 0.9, -5.0, 1)
    return base._replace(**changes)


def folder(ok: int, uncertain: int = 0, no_digits: int = 0) -> list[Image]:
    """Give the rows of a table."""
    statuses = ["ok"] * ok + ["uncertain"] * uncertain + ["not-a-digit"] * no_digits
    return [image(number, status) for number, status in enumerate(statuses)]


def right_answers(selection: ReviewQueue, count: int | None = None) -> dict[str, str]:
    """Answer the first images of a queue as the table has them."""
    return {picked.image.sha256: picked.image.suggestion for picked in selection.queue[:count]}


class TestSelect:
    """What is asked about."""

    def test_every_flagged_image_and_a_sample_of_the_others(self) -> None:
        """Each once."""
        selection = build_queue(folder(1000, 30, 20), size=40)
        assert [len(selection.of(stratum)) for stratum in ("uncertain", "not-a-digit", "sample")] == [30, 20, 40]
        assert {one.status for one in selection.of("sample")} == {"ok"}
        assert selection.confident == 1000
        assert len({picked.image.sha256 for picked in selection.queue}) == 90

    def test_the_most_valuable_first_with_the_sample_between(self) -> None:
        """The chance that the table is wrong decides; every third one is of the sample, while there are both."""
        rows = [
            *folder(50),
            image(100, "uncertain", confidence=0.30),
            image(101, "not-a-digit", novelty=0.0),
            image(102, "uncertain", confidence=0.70),
            image(103, "not-a-digit", novelty=2.0),
            image(104, "not-a-digit", novelty=1000.0),
        ]
        queue = build_queue(rows, size=4).queue
        assert [picked.image.path for picked in queue if picked.stratum != "sample"] == [
            f"{number}.png" for number in range(100, 105)
        ]
        assert [picked.stratum == "sample" for picked in queue] == [0, 0, 1, 0, 0, 1, 0, 1, 1]

    def test_the_value_is_the_chance_that_the_table_is_wrong(self) -> None:
        """Also for numbers that are far too large for an exponential."""
        assert error_probability(image(1, "uncertain", confidence=0.25)) == 0.75
        assert error_probability(image(1, "not-a-digit", novelty=0.0)) == 0.5
        assert 0 <= error_probability(image(1, "not-a-digit", novelty=1e9)) < 1e-300

    def test_the_same_content_is_asked_about_once(self) -> None:
        """Under the first of its names; the population counts it once too."""
        rows = [image(1), image(1)._replace(path="copy.png"), image(2)]
        selection = build_queue(rows, size=10)
        assert sorted(one.path for one in selection.of("sample")) == ["1.png", "2.png"]
        assert selection.confident == 2

    def test_the_order_of_the_sample_is_random_and_lasts(self) -> None:
        """It begins alike for a larger sample, a longer table and another order of rows; a new model has another."""
        rows = folder(300)
        first = build_queue(rows, size=20).of("sample")
        assert build_queue(rows, size=50).of("sample")[:20] == first
        assert build_queue(rows[::-1], size=20).of("sample") == first
        longer = [one for one in build_queue(folder(400), size=60).of("sample") if one in rows]
        assert longer[:20] == first[:20]
        assert [one.sha256 for one in first] != sorted(one.sha256 for one in first)
        newer = build_queue([one._replace(model_version=2) for one in rows], size=20).of("sample")
        assert {one.sha256 for one in newer} != {one.sha256 for one in first}

    def test_every_image_is_as_likely_to_be_drawn(self) -> None:
        """Over many versions of a model: the counts of 40 images vary as those of fair draws do (chi squared)."""
        counts = dict.fromkeys((one.sha256 for one in folder(40)), 0)
        for version in range(400):
            for one in build_queue([one._replace(model_version=version) for one in folder(40)], size=10).of("sample"):
                counts[one.sha256] += 1
        spread = sum((count - 100) ** 2 / 75 for count in counts.values()) * 39 / 40
        assert 16 < spread < 74

    def test_what_was_labelled_for_another_model_is_left_out(self) -> None:
        """Of all strata and of the population."""
        rows = folder(100, 10, 10)
        known = {one.sha256 for one in rows[::3]}
        selection = build_queue(rows, size=1000, is_known=lambda one: one.sha256 in known)
        assert selection.known == len(known) == 40
        assert selection.confident == 66
        assert not known & {picked.image.sha256 for picked in selection.queue}

    def test_a_table_without_anything_to_ask(self) -> None:
        """Nothing is asked, nothing estimated."""
        selection = build_queue([], size=5)
        assert selection == ReviewQueue((), 0, 0)
        progress = measure_progress(selection, lambda _: None)
        assert progress.confident is progress.table is None


class TestEstimate:
    """The share of right rows."""

    @pytest.mark.parametrize(
        ("right", "judged", "low", "high"), [(195, 200, 0.94263, 0.99183), (200, 200, 0.98172, 1), (0, 5, 0, 0.52182)]
    )
    def test_in_a_large_population_it_is_that_of_clopper_and_pearson(
        self, right: int, judged: int, low: float, high: float
    ) -> None:
        """Their published limits, two-sided at 95 %."""
        found = estimate(right, judged, 10**7)
        assert found.share == right / judged
        assert found.low == pytest.approx(low, abs=2e-5)
        assert found.high == pytest.approx(high, abs=2e-5)

    @pytest.mark.parametrize("right", range(6))
    def test_when_all_were_judged_nothing_is_left_to_chance(self, right: int) -> None:
        """The interval is a point."""
        assert estimate(right, 5, 5)[3:] == (right / 5,) * 3

    @settings(max_examples=100, deadline=None)
    @given(st.integers(1, 60), st.data())
    def test_the_interval_holds_what_was_seen(self, population: int, data: Any) -> None:
        """It never says that what was judged can't be, and contains the share itself."""
        judged = data.draw(st.integers(1, population))
        right = data.draw(st.integers(0, judged))
        found = estimate(right, judged, population)
        low, high = round(found.low * population), round(found.high * population)
        assert right <= low <= high <= population - (judged - right)
        assert found.low <= found.share <= found.high

    @pytest.mark.parametrize(("population", "judged"), [(30, 8), (60, 59)])
    def test_it_covers_the_truth_in_95_of_100_samples_whatever_the_truth(self, population: int, judged: int) -> None:
        """Exactly, by counting all samples of small populations."""
        from scipy.stats import hypergeom

        found = [estimate(right, judged, population) for right in range(judged + 1)]
        for truth in range(population + 1):
            chances = hypergeom.pmf(range(judged + 1), population, truth, judged)
            covered = sum(
                chance for chance, one in zip(chances, found, strict=True) if one.low <= truth / population <= one.high
            )
            assert covered >= 0.95


def simulated(seed: int, *, stop: int | None = None) -> tuple[float, Any]:
    """Review a table of 500 with known truths by somebody who stops after a while; give the truth and what is told.

    Wrong rows are found among the least confident, so that a sample that prefers some rows would show.
    """
    generator = random.Random(seed)  # noqa: S311
    rows, truth = [], {}
    for number in range(seed * 1000, seed * 1000 + 500):
        confidence = generator.random()
        one = image(number, "uncertain" if confidence < 0.1 else "ok", confidence=confidence)
        rows.append(one)
        is_wrong = generator.random() < 0.3 * (1 - confidence)
        truth[one.sha256] = "not-a-digit" if is_wrong else one.prediction
    selection = build_queue(rows, size=60)
    asked = selection.queue[: stop or generator.randrange(20, len(selection.queue))]
    answers = {picked.image.sha256: truth[picked.image.sha256] for picked in asked}
    chosen = [one for one in rows if stop or one.status == "ok"]
    share = sum(truth[one.sha256] == one.prediction for one in chosen) / len(chosen)
    return share, measure_progress(selection, answers.get)


class TestProgress:
    """How far it is, and what can be said."""

    def test_counts_by_stratum(self) -> None:
        """Skipped ones are done too."""
        selection = build_queue(folder(100, 4, 2), size=10)
        answers = right_answers(selection, 5)
        answers[selection.queue[0].image.sha256] = "skip"
        progress = measure_progress(selection, answers.get)
        assert sum(progress.done.values()) == 5
        assert progress.total == {"uncertain": 4, "not-a-digit": 2, "sample": 10}

    def test_wherever_one_stops_the_interval_covers_the_accuracy_of_ok_rows(self) -> None:
        """In at least 95 of 100 of simulated reviews, whose mean is the truth."""
        found = [simulated(seed) for seed in range(SIMULATED)]
        told = [(truth, progress.confident) for truth, progress in found]
        covered = sum(one.low <= truth <= one.high for truth, one in told)
        assert covered / SIMULATED >= 0.95
        assert abs(sum(one.share - truth for truth, one in told)) / SIMULATED < 0.004

    def test_a_whole_review_covers_the_accuracy_of_all_rows(self) -> None:
        """Once the flagged ones are all answered, and not before."""
        found = [simulated(seed, stop=10_000) for seed in range(SIMULATED)]
        covered = sum(progress.table.low <= truth <= progress.table.high for truth, progress in found)
        assert covered / SIMULATED >= 0.95
        assert all(progress.table.population == 500 for _, progress in found)
        assert simulated(1, stop=20)[1].table is None

    def test_only_the_beginning_of_the_random_order_counts(self) -> None:
        """An image that was labelled for another reason says nothing before its turn."""
        selection = build_queue(folder(100), size=10)
        answers = right_answers(selection, 3)
        late = selection.queue[7].image
        answers[late.sha256] = "not-a-digit"
        found = measure_progress(selection, answers.get).confident
        assert found is not None
        assert (found.right, found.judged) == (3, 3)
        found = measure_progress(selection, {**right_answers(selection), **answers}.get).confident
        assert found is not None
        assert (found.right, found.judged) == (9, 10)

    def test_what_nobody_could_tell_is_not_judged(self) -> None:
        """Skipped ones and those that are gone are passed over, and the next ones count."""
        selection = build_queue(folder(100), size=6)
        answers = right_answers(selection, 5)
        skipped, gone = selection.queue[0].image.sha256, selection.queue[2].image.sha256
        answers[skipped] = "skip"
        del answers[gone]
        found = measure_progress(selection, answers.get).confident
        assert found is not None
        assert (found.right, found.judged) == (1, 1)
        found = measure_progress(selection, answers.get, is_gone=lambda sha256: sha256 == gone).confident
        assert found is not None
        assert (found.right, found.judged, found.population) == (3, 3, 100)

    def test_no_digit_is_a_mistake_in_an_ok_row_and_right_in_a_flagged_one(self) -> None:
        """And a flagged digit is a mistake, whatever its class."""
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

    def test_a_skipped_flag_may_be_either(self) -> None:
        """The interval of the whole table gets as wide."""
        rows = [image(1), *(image(number, "uncertain") for number in range(2, 11))]
        answers = {one.sha256: one.prediction for one in rows}
        answers[rows[5].sha256] = "skip"
        found = measure_progress(build_queue(rows, size=5), answers.get).table
        assert found is not None
        assert (found.low, found.share, found.high) == (0.9, 1, 1)
        assert measure_progress(build_queue(rows[1:2], size=5), lambda _: "skip").table is None

    def test_a_table_of_flags_alone_needs_no_sample(self) -> None:
        """It is known when all are answered."""
        selection = build_queue(folder(0, 4), size=5)
        found = measure_progress(selection, right_answers(selection).get).table
        assert found is not None
        assert (found.judged, found.low, found.high) == (4, 1, 1)

    def test_it_is_told_as_json_values(self) -> None:
        """Estimates by name, or null."""
        selection = build_queue(folder(3), size=3)
        record = measure_progress(selection, right_answers(selection, 1).get).as_record()
        assert record["confident"]["judged"] == 1
        assert record["done"] == {"uncertain": 0, "not-a-digit": 0, "sample": 1}
        assert measure_progress(selection, lambda _: None).as_record()["confident"] is None
