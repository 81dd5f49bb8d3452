"""A softmax regression finds scikit-learn's optimum, wherever its search starts."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import LogisticRegression

from clip_kinetics700_builder.evaluate.softmax_regression import fit_classifier, prepare_features

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTH = 12
Array = npt.NDArray[Any]


def make_problem(dtype: str) -> tuple[Array, Array, Array]:
    """Return features with a common mean and correlated columns, labels, other features."""
    rng = np.random.default_rng(5)
    mix = rng.standard_normal((WIDTH, WIDTH)) * np.logspace(0, -2, WIDTH)
    labels = np.arange(600) % 7
    features = (
        3 + (rng.standard_normal((7, WIDTH))[labels] + rng.standard_normal((600, WIDTH))) @ mix
    )
    return features[:500].astype(dtype), labels[:500], features[500:].astype(dtype)


@pytest.mark.parametrize(
    ("c", "dtype", "tolerance"),
    [(0.01, "float64", 1e-5), (10.0, "float64", 1e-5), (1.0, "float32", 3e-3)],
)
def test_the_optimum_is_scikit_learns(c: float, dtype: str, tolerance: float) -> None:
    """Probabilities of unseen rows equal those of scikit-learn to 1e-5, in float32 to 3e-3."""
    features, labels, others = make_problem(dtype)
    # scikit-learn's lbfgs does not get there with these features in 10,000 steps.
    model = LogisticRegression(C=c, solver="newton-cholesky", max_iter=1000, tol=1e-12)
    model.fit(features.astype(np.float64), labels)
    data = prepare_features(features.copy(), labels)
    weights, bias = fit_classifier(data, 7, c=c, tolerance=1e-13).restore(data)
    logits = others @ weights + bias
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(chances, model.predict_proba(others), atol=tolerance)


def test_a_warm_start_ends_at_the_same_optimum() -> None:
    """A start near the optimum changes how long the search takes, not where it ends."""
    features, labels, others = make_problem("float64")
    data = prepare_features(features, labels)
    before = fit_classifier(data, 7, c=0.1, tolerance=1e-9)
    fits = [fit_classifier(data, 7, c=10, tolerance=1e-13, start=fit) for fit in (before, None)]
    warm, cold = (others @ weights + bias for weights, bias in (fit.restore(data) for fit in fits))
    np.testing.assert_allclose(warm, cold, atol=1e-3)
