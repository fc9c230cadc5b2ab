"""What to try next, what to give up, and what mattered: Optuna's answers, each a function of the trials so far.

Nothing of Optuna's is kept: a study is built anew from the trials whenever something is asked of it, with a sampler
that is seeded by the study's seed and the trial's number. So a search that was killed goes on as it would have.

J. Bergstra et al.: Algorithms for Hyper-Parameter Optimization, NIPS 2011 (the sampler, TPE). D. Golovin et al.: Google
Vizier, KDD 2017 (the rule for giving up). F. Hutter, H. Hoos, K. Leyton-Brown: An Efficient Approach for Assessing
Hyperparameter Importance, ICML 2014 (fANOVA).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from digits.records import digest_of
from digits.spaces import Dimension, Range, Space, Values

History = Sequence[Mapping[str, float]]
OBJECTIVE = "validation_calibrated_loss"
STARTUP_TRIALS = 8
"""Drawn at random before the sampler has something to go by."""
KEPT_PERCENT = 75.0
COMPLETE_BEFORE_PRUNING = 4
IMPORTANCE_TRIALS = 8
"""Complete trials below which importances would be noise."""


class State(StrEnum):
    """What became of a trial."""

    UNFINISHED = "unfinished"
    COMPLETE = "complete"
    PRUNED = "pruned"
    DIVERGED = "diverged"


@dataclass(frozen=True)
class Trial:
    """Settings that are tried, and how that went.

    Args:
        number: from 0; 0 has the settings as they were.
        values: of the hyperparameters that are searched.
        state: what became of it.
        history: metrics of each epoch, as `training.fit` gives them.
        seconds: that it took, of the process that ended it.
        model: the digest of the fitted network, where the trial is complete.
    """

    number: int
    values: Values
    state: State = State.UNFINISHED
    history: History = ()
    seconds: float = 0.0
    model: str | None = None

    @property
    def losses(self) -> list[float]:
        """The objective after each epoch."""
        return [epoch[OBJECTIVE] for epoch in self.history]

    @property
    def loss(self) -> float | None:
        """The objective in the end; None before the first epoch's."""
        return self.losses[-1] if self.history else None


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Give the complete trial with the least loss, the first of equals; None when none is complete."""
    complete = [trial for trial in trials if trial.state is State.COMPLETE]
    return min(complete, key=lambda trial: (trial.loss, trial.number), default=None)


def propose(space: Space, trials: Sequence[Trial], *, number: int, seed: int) -> dict[str, Any]:
    """Give the values to try in a trial.

    Args:
        space: checked.
        trials: those before it; unfinished ones are taken to go badly, so that others are proposed.
        number: of the trial.
        seed: of the study.
    """
    import optuna

    sampler = optuna.samplers.TPESampler(seed=_seed_of(seed, number), n_startup_trials=STARTUP_TRIALS)
    asked = _study(space, trials, sampler=sampler).ask(_distributions(space))
    return {name: _meant(space[name], value) for name, value in asked.params.items()}


def is_hopeless(space: Space, trials: Sequence[Trial], history: History, *, epochs: int) -> bool:
    """Tell whether a trial should be given up: its best loss so far is among the worst quarter of others at this epoch.

    Half of the epochs are waited for: while the learning rate is high, the losses say little of the end. Those that
    are compared with are complete, so they are the better ones; the median would be too strict.

    Args:
        space: checked.
        trials: others; complete ones are compared with.
        history: of the trial, so far.
        epochs: that it has in all.
    """
    import optuna

    if not history:
        return False
    pruner = optuna.pruners.PercentilePruner(KEPT_PERCENT, COMPLETE_BEFORE_PRUNING, math.ceil(epochs / 2))
    return pruner.prune(_study(space, trials), _frozen(space, Trial(0, {}, history=history)))


def importances(space: Space, trials: Sequence[Trial], *, seed: int) -> dict[str, float]:
    """Give what share of the differences in loss each hyperparameter explains (fANOVA), the largest first.

    Empty where there are too few complete trials, or their losses are all the same.
    """
    import optuna

    complete = [trial for trial in trials if trial.state is State.COMPLETE]
    within = [trial for trial in complete if all(space[name].has(value) for name, value in trial.values.items())]
    if len(within) < IMPORTANCE_TRIALS or len({trial.loss for trial in within}) == 1:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=_seed_of(seed, 0))
    found = optuna.importance.get_param_importances(_study(space, within), evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}


def _seed_of(seed: int, number: int) -> int:
    return int(digest_of([seed, number])[:8], 16)


def _study(space: Space, trials: Sequence[Trial], **options: Any) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize", **options)
    study.add_trials([_frozen(space, trial) for trial in trials])
    return study


def _frozen(space: Space, trial: Trial) -> Any:
    """Give a trial as Optuna has them; values outside of the space, such as those of trial 0, are left out."""
    from optuna.trial import TrialState, create_trial

    states = {
        State.UNFINISHED: TrialState.RUNNING,
        State.COMPLETE: TrialState.COMPLETE,
        State.PRUNED: TrialState.PRUNED,
        State.DIVERGED: TrialState.PRUNED,  # the worst of what was pruned, when it came to no epoch's end
    }
    within = {name: value for name, value in trial.values.items() if space[name].has(value)}
    return create_trial(
        state=states[trial.state],
        value=trial.loss if trial.state is State.COMPLETE else None,
        params={name: _internal(space[name], value) for name, value in within.items()},
        distributions={name: one for name, one in _distributions(space).items() if name in within},
        intermediate_values=dict(enumerate(trial.losses, 1)),
    )


def _distributions(space: Space) -> dict[str, Any]:
    return {name: _distribution(dimension) for name, dimension in space.items()}


def _distribution(dimension: Dimension) -> Any:
    from optuna import distributions

    if not isinstance(dimension, Range):
        return distributions.CategoricalDistribution(range(len(dimension.choices)))
    if dimension.is_whole:
        return distributions.IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _internal(dimension: Dimension, value: Any) -> Any:
    return value if isinstance(dimension, Range) else dimension.position(value)


def _meant(dimension: Dimension, value: Any) -> Any:
    """Give a proposed value as it is tried: numbers with four digits that count, so that people can read them."""
    if not isinstance(dimension, Range):
        return dimension.choices[value]
    return value if dimension.is_whole else min(dimension.high, max(dimension.low, float(f"{value:.4g}")))
