"""Features and labels in, scikit-learn's logistic regression out: the one home of that library."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from builder.types import Float32Array

SEED = 0


@dataclass(frozen=True, slots=True, eq=False)
class SklearnFit:
    """A trained classifier, and what it took."""

    model: Any
    classes: npt.NDArray[np.int64]
    """(n_seen,) numbers of the classes that its columns are."""
    n_iterations: int

    def score(self, rows: Float32Array) -> npt.NDArray[Any]:
        """Return the (n, n_seen) probabilities of (n, width) features."""
        return np.asarray(self.model.predict_proba(rows))


def fit_logistic_regression(
    rows: Float32Array, labels: npt.NDArray[np.int64], *, c: float, max_iterations: int
) -> SklearnFit:
    """Train scikit-learn's `LogisticRegression` with its defaults: lbfgs, L2."""
    model = LogisticRegression(random_state=SEED, C=c, max_iter=max_iterations)
    with warnings.catch_warnings():
        # How many iterations there were is told in the result.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows, labels)
    return SklearnFit(model, model.classes_.astype(np.int64), int(model.n_iter_.max()))
