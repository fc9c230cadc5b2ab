"""Proposals, pruning and importances of a search with Optuna."""

import math
import subprocess
import sys
from typing import Any

import pytest

from digits.pipeline.search import (
    COMPLETE_BEFORE_PRUNING,
    IMPORTANCE_TRIALS,
    OBJECTIVE,
    Choice,
    Range,
    Space,
    Trial,
    TrialState,
    best_of,
    importances,
    propose,
    should_prune,
)

SPACE: Space = {
    "model.hidden": Choice(choices=([64], [128], [256])),
    "training.batch_size": Range(low=16, high=256, log=True),
    "training.learning_rate": Range(low=1e-4, high=1e-1, log=True),
}


def epochs(*losses: float) -> list[dict[str, float]]:
    """Return a history with these losses."""
    return [{OBJECTIVE: loss, "validation_accuracy": 1 - loss} for loss in losses]


def trial(number: int, *losses: float, state: TrialState = TrialState.COMPLETE, **values: Any) -> Trial:
    """Return a trial with default values, or the given ones."""
    settings = {"hidden": [128], "batch_size": 32, "learning_rate": 0.01, **values}
    names = {"hidden": "model.hidden", "batch_size": "training.batch_size", "learning_rate": "training.learning_rate"}
    return Trial(number, {names[name]: value for name, value in settings.items()}, state, epochs(*losses))


def searched(count: int, *, seed: int = 0) -> list[Trial]:
    """Return trials of a search whose loss is the distance of the learning rate from 0.01, in orders of magnitude."""
    trials: list[Trial] = []
    for number in range(count):
        values = propose(SPACE, trials, number=number, seed=seed)
        distance = abs(1 + math.log10(values["training.learning_rate"]) + 1)
        trials.append(Trial(number, values, TrialState.COMPLETE, epochs(distance)))
    return trials


def test_a_proposal_is_a_function_of_the_trials_the_number_and_the_seed() -> None:
    """Earlier proposals have no influence."""
    trials = searched(12)
    again = propose(SPACE, trials, number=12, seed=0)
    assert propose(SPACE, trials, number=12, seed=0) == again
    assert propose(SPACE, trials, number=12, seed=1) != again
    assert propose(SPACE, trials, number=13, seed=0) != again
    assert propose(SPACE, trials[:11], number=12, seed=0) != again
    assert searched(12) == trials


def test_proposals_are_within_the_space_and_have_four_significant_digits() -> None:
    """Whole numbers where the setting requires them, and one of the choices."""
    for one in searched(20):
        values = one.values
        assert values["model.hidden"] in ([64], [128], [256])
        assert isinstance(values["training.batch_size"], int)
        assert 16 <= values["training.batch_size"] <= 256
        rate = values["training.learning_rate"]
        assert 1e-4 <= rate <= 1e-1
        assert rate == float(f"{rate:.4g}")


def test_the_search_converges() -> None:
    """The last trials are closer to the best value than the random first ones."""
    trials = searched(40)
    start = sum(one.loss or 0 for one in trials[:8]) / 8
    end = sum(one.loss or 0 for one in trials[-8:]) / 8
    assert end < start / 2


def test_proposals_avoid_the_values_of_unfinished_trials() -> None:
    """Two processes do not try the same values."""
    trials = searched(12)
    alone = propose(SPACE, trials, number=12, seed=0)
    beside = [*trials, Trial(12, alone)]
    assert propose(SPACE, beside, number=12, seed=0) != alone


def test_trials_outside_the_space_are_accepted() -> None:
    """Trial 0 has the initial settings, which may be outside; trials that diverged in the first epoch have no loss."""
    outside = trial(0, 0.3, hidden=[512], learning_rate=0.5)
    diverged = trial(1, state=TrialState.DIVERGED)
    pruned = trial(2, 0.9, state=TrialState.PRUNED)
    assert set(propose(SPACE, [outside, diverged, pruned], number=3, seed=0)) == set(SPACE)
    many = [outside, *(trial(number, 0.1 * number, learning_rate=0.001 * number) for number in range(1, 12))]
    assert set(importances(SPACE, many, seed=0)) == set(SPACE)


def test_a_trial_in_the_worst_quarter_is_pruned() -> None:
    """By its best loss so far, compared at the same epoch; not while there are too few complete trials."""
    others = [trial(number, 0.5, 0.4 + 0.1 * number, 0.2) for number in range(COMPLETE_BEFORE_PRUNING + 1)]
    assert should_prune(SPACE, others, epochs(0.9, 0.71), epochs=3)
    assert not should_prune(SPACE, others, epochs(0.9, 0.69), epochs=3)
    assert not should_prune(SPACE, others, epochs(0.5, 0.9), epochs=3)
    assert not should_prune(SPACE, others[: COMPLETE_BEFORE_PRUNING - 1], epochs(0.9, 0.9), epochs=3)
    assert not should_prune(SPACE, others, [], epochs=3)


def test_no_trial_is_pruned_in_the_first_half_of_its_epochs() -> None:
    """Half of five epochs is rounded up to three."""
    others = [trial(number, *[0.5] * 6) for number in range(COMPLETE_BEFORE_PRUNING)]
    assert not should_prune(SPACE, others, epochs(0.9, 0.9), epochs=6)
    assert should_prune(SPACE, others, epochs(0.9, 0.9, 0.9), epochs=6)
    assert should_prune(SPACE, others, epochs(0.9, 0.9, 0.9), epochs=5)
    assert not should_prune(SPACE, others, epochs(0.9, 0.9), epochs=5)


def test_the_only_setting_that_matters_is_the_most_important() -> None:
    """The loss depends on the learning rate only."""
    found = importances(SPACE, searched(30), seed=0)
    assert next(iter(found)) == "training.learning_rate"
    assert found["training.learning_rate"] > 0.8
    assert sum(found.values()) == pytest.approx(1)
    assert importances(SPACE, searched(30), seed=0) == found


def test_importances_are_empty_without_enough_different_trials() -> None:
    """With too few trials, equal losses, or pruned trials only."""
    assert importances(SPACE, searched(IMPORTANCE_TRIALS - 1), seed=0) == {}
    assert importances(SPACE, [trial(number, 0.5) for number in range(20)], seed=0) == {}
    pruned = [trial(number, 0.1 * number, state=TrialState.PRUNED) for number in range(20)]
    assert importances(SPACE, pruned, seed=0) == {}


def test_the_best_trial_is_complete_and_the_first_of_equals() -> None:
    """A pruned trial is not the best, even with the lowest loss."""
    trials = [trial(0, 0.5), trial(1, 0.1, state=TrialState.PRUNED), trial(2, 0.9, 0.3), trial(3, 0.3), Trial(4, {})]
    best = best_of(trials)
    assert best is not None
    assert best.number == 2
    assert best_of(trials[1:2]) is None


def test_importing_a_study_loads_no_heavy_library() -> None:
    """Optuna, TensorFlow, Prefect and scikit-learn are loaded when they are used."""
    code = "import sys, digits.pipeline.study; print({'optuna', 'tensorflow', 'prefect', 'sklearn'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
