"""Multinomial logistic regression trains a linear classifier on many rows.

The objective is scikit-learn's (cross entropy, L2 on the weights and not on the bias), and so is
the optimum. What is new is the way there: features are centred and rotated onto their principal
axes once, and each axis is scaled by the curvature it is going to have, so that L-BFGS needs tens
of passes over the rows and not hundreds. A pass is a few matrix products of rows that fit a cache.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits
from torch import Tensor

from clip_kinetics700_builder.system.threads import share_rows
from clip_kinetics700_builder.types import Float32Array

ROWS_PER_CHUNK = 1024
# Pairs of steps that L-BFGS remembers.
N_CORRECTIONS = 20
MAX_PASSES = 1000
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Features in coordinates in which the problem is round."""

    rows: Tensor
    """(n, width) centred and rotated, in the type that is computed in."""
    labels: Tensor
    """(n,) int64."""
    mean: Array
    """(width,) float64 of the features."""
    rotation: Array
    """(width, width) float64; `(features - mean) @ rotation` are the rows."""
    variances: Array
    """(width,) float64 of the rows, the axes' own."""

    def take(self, begin: int, end: int) -> "Prepared":
        """Return some of the rows, without a copy."""
        return replace(self, rows=self.rows[begin:end], labels=self.labels[begin:end])


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A classifier in the coordinates of prepared features, and what finding it took."""

    weights: Array
    """(width, n_classes) float64."""
    bias: Array
    """(n_classes,) float64."""
    n_passes: int
    """Over all rows."""

    def score(self, rows: Tensor) -> Float32Array:
        """Return the (n, n_classes) logits of prepared rows."""
        weights = torch.from_numpy(self.weights).to(rows.dtype)
        bias = torch.from_numpy(self.bias).to(rows.dtype)
        return np.asarray(torch.addmm(bias, rows, weights))

    def restore(self, prepared: Prepared) -> tuple[Array, Array]:
        """Return (width, n_classes) weights and (n_classes,) bias for features as they were."""
        weights = prepared.rotation @ self.weights
        bias = self.bias - prepared.mean @ weights
        dtype = np.dtype(str(prepared.rows.dtype).removeprefix("torch."))
        return weights.astype(dtype), bias.astype(dtype)


def prepare_features(features: Array, labels: npt.NDArray[np.int64]) -> Prepared:
    """Centre and rotate (n, width) features of a float type in place."""
    rows = torch.from_numpy(features)
    mean = rows.mean(dim=0, dtype=torch.float64)
    covariance = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
    for chunk in cut_chunks(rows):
        chunk.sub_(mean.to(rows.dtype))
        covariance += (chunk.T @ chunk).double()
    variances, rotation = torch.linalg.eigh(covariance / len(rows))
    for chunk in cut_chunks(rows):
        chunk.copy_(chunk @ rotation.to(rows.dtype))
    return Prepared(
        rows=rows,
        labels=torch.from_numpy(labels),
        mean=np.asarray(mean),
        rotation=np.asarray(rotation),
        variances=np.asarray(variances.clamp(min=0)),
    )


def fit_classifier(
    data: Prepared, n_classes: int, *, c: float, tolerance: float, start: Fit | None = None
) -> Fit:
    """Return the classifier that minimises `c * sum of cross entropies + |weights|^2 / 2`.

    Args:
        data: prepared features and labels.
        n_classes: all of them, those without rows too.
        c: as scikit-learn's `C`.
        tolerance: a pass that lowers the mean cross entropy by less, relative to the larger of it
            and 1, is the last.
        start: a classifier to begin with, that of another `c` for example.
    """
    decay = 1 / (c * len(data.rows))
    # Near the beginning a class has this curvature along an axis of variance 1.
    curvature = 1 / n_classes
    scale = 1 / np.sqrt(curvature * data.variances + decay)[:, None]
    bias_scale = 1 / np.sqrt(curvature)
    width = len(scale)

    def unpack(point: Array) -> tuple[Array, Array]:
        table = point.reshape(width + 1, n_classes)
        return scale * table[:width], bias_scale * table[width]

    def measure(point: Array) -> tuple[float, Array]:
        weights, bias = unpack(point)
        loss, slope, bias_slope = measure_loss(data, weights, bias)
        slope += decay * weights
        gradient = np.concatenate([scale * slope, bias_scale * bias_slope[None]])
        return loss + decay / 2 * float((weights**2).sum()), gradient.ravel()

    first = np.zeros((width + 1, n_classes))
    if start is not None:
        first = np.concatenate([start.weights / scale, start.bias[None] / bias_scale])
    options = {"maxcor": N_CORRECTIONS, "maxfun": MAX_PASSES, "ftol": tolerance, "gtol": 1e-9}
    # Threads of scipy's OpenBLAS wait in loops, on the cores on which torch's would compute.
    with threadpool_limits({"openblas": 1}):
        found = minimize(measure, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    return Fit(*unpack(found.x), n_passes=int(found.nfev))


def measure_loss(data: Prepared, weights: Array, bias: Array) -> tuple[float, Array, Array]:
    """Return the mean cross entropy and its gradients by weights and bias, all float64."""
    dtype = data.rows.dtype
    matrix = torch.from_numpy(weights).to(dtype)
    offset = torch.from_numpy(bias).to(dtype)
    n_rows = len(data.rows)
    shares = share_rows(
        lambda begin, end: sum_losses(data.take(begin, end), matrix, offset), n_rows
    )
    losses, slopes, bias_slopes = zip(*shares, strict=True)
    return (
        sum(losses) / n_rows,
        np.asarray(sum(slopes), np.float64) / n_rows,
        np.asarray(sum(bias_slopes), np.float64) / n_rows,
    )


def sum_losses(data: Prepared, matrix: Tensor, offset: Tensor) -> tuple[float, Tensor, Tensor]:
    """Return the sum of the cross entropies of some rows, and of their gradients."""
    slope, bias_slope = torch.zeros_like(matrix), torch.zeros_like(offset)
    loss = 0.0
    buffer = torch.empty(ROWS_PER_CHUNK, len(offset), dtype=offset.dtype)
    for rows, labels in zip(cut_chunks(data.rows), cut_chunks(data.labels), strict=True):
        logits = torch.addmm(offset, rows, matrix, out=buffer[: len(rows)])
        at = labels[:, None]
        true = logits.gather(1, at)
        loss += float((logits.logsumexp(1, keepdim=True) - true).sum(dtype=torch.float64))
        errors = torch.softmax(logits, 1, out=logits)
        errors.scatter_add_(1, at, torch.full_like(true, -1))
        slope.addmm_(rows.T, errors)
        bias_slope += errors.sum(0)
    return loss, slope, bias_slope


def cut_chunks(rows: Tensor) -> Iterator[Tensor]:
    """Yield views of some rows at a time."""
    for begin in range(0, len(rows), ROWS_PER_CHUNK):
        yield rows[begin : begin + ROWS_PER_CHUNK]
