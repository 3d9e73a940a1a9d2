"""Whether an image is like the training images at all, whatever class a model names.

Three distances, each of which misses other things:
- pixels: what is left of an image beside the principal components of the training images,
- features: the Mahalanobis distance of the last hidden layer to the nearest class (Lee et al.
  2018),
- energy: −log Σ exp(logits) (Liu et al. 2020).

Each is scaled so that the median of held-out rows is 0 and their 99 % quantile is 1. The largest
decides, over its own quantile on these rows: above 1 an image is rejected.

Axes: N images, P pixels, F features, C classes, K components.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The share of the training images' variance that the components have.
VARIANCE = 0.95
# The share of clean images that is rejected.
REJECTED = 0.01
# At most this many training rows are fitted to.
NUM_FITTED = 20_000

Floats = NDArray[np.float32]
Arrays = dict[str, NDArray[Any]]


def fit_likeness(
    images_NP: NDArray[np.uint8], features_NF: Floats, labels_N: NDArray[np.int64]
) -> Arrays:
    """Return the arrays of the three distances, without their scales, from training rows."""
    from sklearn.covariance import LedoitWolf
    from sklearn.decomposition import PCA

    pixels_NP = images_NP.astype(np.float32) / 255
    pca = PCA(VARIANCE, svd_solver="covariance_eigh").fit(pixels_NP)
    means_CF = np.stack([features_NF[labels_N == c].mean(axis=0) for c in np.unique(labels_N)])
    places_N = np.unique(labels_N, return_inverse=True)[1]
    covariance = LedoitWolf(assume_centered=True).fit(features_NF - means_CF[places_N])
    # L Lᵀ is the inverse of the covariance: a distance is Euclidean after a product with L.
    whitening_FF = np.linalg.cholesky(covariance.precision_)
    arrays = {
        "mean": pca.mean_,
        "components": pca.components_,
        "whitening": whitening_FF,
        "classes": means_CF @ whitening_FF,
    }
    return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}


def with_scales(
    arrays: Arrays, images_NP: NDArray[np.uint8], features_NF: Floats, logits_NC: Floats
) -> Arrays:
    """Return the arrays with the scales of the distances, from rows that were held out."""
    distances_N3 = _distances(arrays, images_NP, features_NF, logits_NC)
    middle_3, high_3 = np.quantile(distances_N3, [0.5, 1 - REJECTED], axis=0)
    scaled_N3 = (distances_N3 - middle_3) / (high_3 - middle_3)
    limit = np.quantile(scaled_N3.max(axis=1), 1 - REJECTED)
    scales = np.stack([middle_3, (high_3 - middle_3) * limit])
    return {**arrays, "scales": scales.astype(np.float32)}


def strangeness(
    arrays: Mapping[str, NDArray[Any]],
    images_NP: NDArray[np.uint8],
    features_NF: Floats,
    logits_NC: Floats,
) -> Floats:
    """Return how unlike the training images each image is (N,). Above 1 it is rejected."""
    middle_3, spread_3 = arrays["scales"]
    distances_N3 = _distances(arrays, images_NP, features_NF, logits_NC)
    scaled_N3 = (distances_N3 - middle_3) / spread_3
    found: Floats = scaled_N3.max(axis=1).astype(np.float32)
    return found


def _distances(
    arrays: Mapping[str, NDArray[Any]],
    images_NP: NDArray[np.uint8],
    features_NF: Floats,
    logits_NC: Floats,
) -> Floats:
    """Return the three distances of each image (N, 3)."""
    from scipy.special import logsumexp

    pixels_NP = images_NP.astype(np.float32) / 255 - arrays["mean"]
    inside_NK = pixels_NP @ arrays["components"].T
    left_N = (pixels_NP**2).sum(axis=1) - (inside_NK**2).sum(axis=1)
    white_NF = features_NF @ arrays["whitening"]
    squares = [((white_NF - mean_F) ** 2).sum(axis=1) for mean_F in arrays["classes"]]
    columns = (left_N, np.min(squares, axis=0), -logsumexp(logits_NC, axis=1))
    return np.stack(columns, axis=1)
