"""Heads: the small networks that tell digits from non-digits by the features of a trained network.

All heads are fitted at once. They see the same batches, so a batch is multiplied by the weights of many heads in one
product of matrices. Heads do not depend on each other, so each thread fits a share of them. The shares do not depend on
the number of threads, so the weights are the same on one core and on many.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Random = np.random.Generator

UNITS = 32
"""Units in the hidden layer of a head."""
BATCH = 512
"""Images per step of the fit."""
LEARNING_RATE = 2e-3
"""Learning rate of the first step; it falls to 0 by half a cosine."""
DECAY = 4e-4
"""L2 regularization of the fit."""
SHARES = 2
"""Number of shares into which the heads are divided. More would be slower: the products of matrices become narrow."""
_MOMENTUM, _SQUARES, _EPSILON = 0.9, 0.999, np.float32(1e-8)
"""Constants of Adam: D. P. Kingma, J. Ba: Adam: A Method for Stochastic Optimization, ICLR 2015."""
_MIN_SPREAD = np.float32(0.01)
"""Value that is added to the standard deviation of each feature, so that constant features stay small."""


class Head(NamedTuple):
    """Weights of the score `relu(features @ hidden + hidden_bias) @ out + out_bias`. An image above 0 is rejected."""

    hidden: Floats
    hidden_bias: Floats
    out: Floats
    out_bias: Floats

    def scores(self, features: Floats) -> Floats:
        """Compute the scores of features: (N, F) float32 -> (N,) float32."""
        hidden = np.maximum(features @ self.hidden + self.hidden_bias, 0)
        scores: Floats = (hidden @ self.out + self.out_bias)[:, 0]
        return scores


def fit_head(digits: Floats, others: Floats, *, heads: int, epochs: int, seed: int) -> Head:
    """Fit heads with one hidden layer each, and return one head whose score is the mean of theirs.

    Args:
        digits: (N, F) float32, features of digits.
        others: (M, F) float32, features of non-digits.
        heads: number of heads.
        epochs: passes over the features.
        seed: random seed of the initial weights and of the order of the images.
    """
    from threadpoolctl import threadpool_limits

    random = np.random.default_rng(seed)
    features, labels = _shuffle(random, digits, others)
    mean, spread = _standardize(features)
    order = list(_draw_batches(random, len(labels), epochs))
    shares = [len(share) for share in np.array_split(np.arange(heads), min(SHARES, heads))]
    starts = [_draw_weights(random, features.shape[1], share) for share in shares]
    # The products are small: BLAS threads that wait for each other take several times as long, for the same result.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(len(shares)) as pool:
        fitted = list(pool.map(partial(_fit_share, features, labels, order), starts))
    hidden = np.concatenate([one.hidden for one in fitted], axis=1) / spread[:, np.newaxis]
    bias = np.concatenate([one.hidden_bias for one in fitted]) - mean @ hidden
    out = np.concatenate([one.out.sum(axis=1, keepdims=True) for one in fitted]) / heads
    out_bias = np.concatenate([one.out_bias for one in fitted]).mean(keepdims=True)
    return Head(*(part.astype(np.float32) for part in (hidden, bias, out, out_bias)))


def _shuffle(random: Random, digits: Floats, others: Floats) -> tuple[Floats, Floats]:
    """Return all features in random order, and the labels: 0 for digits, 1 for others."""
    places = random.permutation(len(digits) + len(others))
    features = np.empty((len(places), digits.shape[1]), np.float32)
    labels = np.zeros((len(places), 1), np.float32)
    features[places[: len(digits)]], features[places[len(digits) :]] = digits, others
    labels[places[len(digits) :]] = 1
    return features, labels


def _standardize(features: Floats) -> tuple[Floats, Floats]:
    """Subtract the mean of each feature and divide by its spread, in place; return both."""
    mean = features.mean(axis=0)
    features -= mean
    spread = np.sqrt(np.einsum("nf,nf->f", features, features) / len(features)) + _MIN_SPREAD
    features /= spread
    return mean, spread


def _draw_batches(random: Random, count: int, epochs: int) -> Iterator[slice]:
    """Yield the batches of all epochs, in another order in each epoch."""
    starts = np.arange(0, count, BATCH)
    for _ in range(epochs):
        yield from (slice(start, start + BATCH) for start in random.permutation(starts).tolist())


def _draw_weights(random: Random, features: int, heads: int) -> Head:
    """Draw the initial weights of several heads: X. Glorot, Y. Bengio, AISTATS 2010.

    Column h of `out` has the weights of head h in the rows of its units, and 0 in all other rows.
    """
    first, second = (6 / (features + UNITS)) ** 0.5, (6 / (UNITS + 1)) ** 0.5
    drawn = (
        random.uniform(-first, first, (features, heads * UNITS)),
        random.uniform(-first, first, heads * UNITS),
        random.uniform(-second, second, (heads * UNITS, heads)) * _blocks(heads),
        random.uniform(-second, second, heads),
    )
    return Head(*(part.astype(np.float32) for part in drawn))


def _blocks(heads: int) -> Floats:
    """Return (heads * UNITS, heads): 1 where a unit belongs to the head, else 0."""
    return np.repeat(np.eye(heads, dtype=np.float32), UNITS, axis=0)


def _fit_share(features: Floats, labels: Floats, order: Sequence[slice], weights: Head) -> Head:
    """Fit several heads by Adam, and return their weights."""
    blocks = _blocks(len(weights.out_bias))
    moments = [(np.zeros_like(part), np.zeros_like(part)) for part in weights]
    for step, batch in enumerate(order, 1):
        gradients = _gradients(weights, features[batch], labels[batch], blocks)
        rate = 0.5 * LEARNING_RATE * (1 + np.cos(np.pi * step / len(order)))
        rate *= np.sqrt(1 - _SQUARES**step) / (1 - _MOMENTUM**step)
        for part, gradient, moment in zip(weights, gradients, moments, strict=True):
            _update(part, gradient, moment, np.float32(rate))
    return weights


def _gradients(weights: Head, features: Floats, labels: Floats, blocks: Floats) -> Head:
    """Return the gradients of the cross-entropy of each head, with regularization."""
    hidden = np.maximum(features @ weights.hidden + weights.hidden_bias, 0)
    errors = (_sigmoid(hidden @ weights.out + weights.out_bias) - labels) / np.float32(len(labels))
    behind = errors @ weights.out.T
    behind *= hidden > 0
    return Head(
        features.T @ behind + np.float32(DECAY) * weights.hidden,
        behind.sum(axis=0),
        (hidden.T @ errors) * blocks + np.float32(DECAY) * weights.out,
        errors.sum(axis=0),
    )


def _sigmoid(values: Floats) -> Floats:
    half = np.float32(0.5)
    result: Floats = half + half * np.tanh(half * values)
    return result


def _update(weights: Floats, gradient: Floats, moment: tuple[Floats, Floats], rate: np.float32) -> None:
    """Change weights in place by a step of Adam; `moment` has the moving means of the gradient and of its square."""
    first, second = moment
    first += np.float32(1 - _MOMENTUM) * (gradient - first)
    second += np.float32(1 - _SQUARES) * (gradient * gradient - second)
    weights -= rate * first / (np.sqrt(second) + _EPSILON)
