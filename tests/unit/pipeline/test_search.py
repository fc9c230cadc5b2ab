"""What Optuna is asked: the same answer to the same trials, and answers that are of use."""

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
    """Give a history with these losses."""
    return [{OBJECTIVE: loss, "validation_accuracy": 1 - loss} for loss in losses]


def trial(number: int, *losses: float, state: TrialState = TrialState.COMPLETE, **values: Any) -> Trial:
    """Give a trial with settings that do not matter, or some that do."""
    settings = {"hidden": [128], "batch_size": 32, "learning_rate": 0.01, **values}
    names = {"hidden": "model.hidden", "batch_size": "training.batch_size", "learning_rate": "training.learning_rate"}
    return Trial(number, {names[name]: value for name, value in settings.items()}, state, epochs(*losses))


def searched(count: int, *, seed: int = 0) -> list[Trial]:
    """Search for a learning rate of .01: the loss is how many orders of magnitude it is away."""
    trials: list[Trial] = []
    for number in range(count):
        values = propose(SPACE, trials, number=number, seed=seed)
        distance = abs(1 + math.log10(values["training.learning_rate"]) + 1)
        trials.append(Trial(number, values, TrialState.COMPLETE, epochs(distance)))
    return trials


def test_a_proposal_is_a_function_of_the_trials_the_number_and_the_seed() -> None:
    """Whatever was asked before, in this process or another."""
    trials = searched(12)
    again = propose(SPACE, trials, number=12, seed=0)
    assert propose(SPACE, trials, number=12, seed=0) == again
    assert propose(SPACE, trials, number=12, seed=1) != again
    assert propose(SPACE, trials, number=13, seed=0) != again
    assert propose(SPACE, trials[:11], number=12, seed=0) != again
    assert searched(12) == trials


def test_proposals_are_within_the_space_and_readable() -> None:
    """Whole where they must be, with four digits otherwise, and among the choices."""
    for one in searched(20):
        values = one.values
        assert values["model.hidden"] in ([64], [128], [256])
        assert isinstance(values["training.batch_size"], int)
        assert 16 <= values["training.batch_size"] <= 256
        rate = values["training.learning_rate"]
        assert 1e-4 <= rate <= 1e-1
        assert rate == float(f"{rate:.4g}")


def test_the_search_finds_what_it_looks_for() -> None:
    """After the random start, trials are nearer to the best value than those were."""
    trials = searched(40)
    start = sum(one.loss or 0 for one in trials[:8]) / 8
    end = sum(one.loss or 0 for one in trials[-8:]) / 8
    assert end < start / 2


def test_trials_of_others_that_are_unfinished_are_kept_away_from() -> None:
    """Two processes do not try the same."""
    trials = searched(12)
    alone = propose(SPACE, trials, number=12, seed=0)
    beside = [*trials, Trial(12, alone)]
    assert propose(SPACE, beside, number=12, seed=0) != alone


def test_settings_outside_of_the_space_are_no_obstacle() -> None:
    """Trial 0 has the settings as they were, whatever the space; nor are trials that diverged at once."""
    outside = trial(0, 0.3, hidden=[512], learning_rate=0.5)
    diverged = trial(1, state=TrialState.DIVERGED)
    pruned = trial(2, 0.9, state=TrialState.PRUNED)
    assert set(propose(SPACE, [outside, diverged, pruned], number=3, seed=0)) == set(SPACE)
    many = [outside, *(trial(number, 0.1 * number, learning_rate=0.001 * number) for number in range(1, 12))]
    assert set(importances(SPACE, many, seed=0)) == set(SPACE)


def test_a_trial_among_the_worst_quarter_is_given_up() -> None:
    """At the same epoch, by its best loss so far; not before there is something to compare with."""
    others = [trial(number, 0.5, 0.4 + 0.1 * number, 0.2) for number in range(COMPLETE_BEFORE_PRUNING + 1)]
    assert should_prune(SPACE, others, epochs(0.9, 0.71), epochs=3)
    assert not should_prune(SPACE, others, epochs(0.9, 0.69), epochs=3)
    assert not should_prune(SPACE, others, epochs(0.5, 0.9), epochs=3)
    assert not should_prune(SPACE, others[: COMPLETE_BEFORE_PRUNING - 1], epochs(0.9, 0.9), epochs=3)
    assert not should_prune(SPACE, others, [], epochs=3)


def test_no_trial_is_given_up_in_the_first_half() -> None:
    """While the learning rate is high, losses say little of the end."""
    others = [trial(number, *[0.5] * 6) for number in range(COMPLETE_BEFORE_PRUNING)]
    assert not should_prune(SPACE, others, epochs(0.9, 0.9), epochs=6)
    assert should_prune(SPACE, others, epochs(0.9, 0.9, 0.9), epochs=6)
    assert should_prune(SPACE, others, epochs(0.9, 0.9, 0.9), epochs=5)
    assert not should_prune(SPACE, others, epochs(0.9, 0.9), epochs=5)


def test_what_matters_is_found() -> None:
    """The learning rate alone makes the loss."""
    found = importances(SPACE, searched(30), seed=0)
    assert next(iter(found)) == "training.learning_rate"
    assert found["training.learning_rate"] > 0.8
    assert sum(found.values()) == pytest.approx(1)
    assert importances(SPACE, searched(30), seed=0) == found


def test_of_too_little_nothing_is_said() -> None:
    """Few trials, or trials that are all the same."""
    assert importances(SPACE, searched(IMPORTANCE_TRIALS - 1), seed=0) == {}
    assert importances(SPACE, [trial(number, 0.5) for number in range(20)], seed=0) == {}
    pruned = [trial(number, 0.1 * number, state=TrialState.PRUNED) for number in range(20)]
    assert importances(SPACE, pruned, seed=0) == {}


def test_the_best_is_complete_and_the_first_of_equals() -> None:
    """One that was given up is not the best, however good it looked."""
    trials = [trial(0, 0.5), trial(1, 0.1, state=TrialState.PRUNED), trial(2, 0.9, 0.3), trial(3, 0.3), Trial(4, {})]
    best = best_of(trials)
    assert best is not None
    assert best.number == 2
    assert best_of(trials[1:2]) is None


def test_importing_it_is_light() -> None:
    """Optuna is loaded when it is asked."""
    code = "import sys, digits.pipeline.study; print({'optuna', 'tensorflow', 'prefect', 'sklearn'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
