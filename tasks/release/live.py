"""What the script of a report works on: the network in float16, and images of the test split.

Axes: N test rows, R rows whose images are shown, H × W pixels, C classes.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.release.bundle import MODEL, PROBABILITIES, evenly
from tasks.runtime.errors import ReleaseError

if TYPE_CHECKING:
    from torch import nn

    from tasks.release.assemble import Lineage

# A page with more weights or images than these would open too slowly.
MAX_WEIGHT_BYTES, MAX_IMAGE_BYTES = 4 * 2**20, 2 * 2**20
NUM_EXAMPLES = 20

View = dict[str, Any]


def live_data(lineage: Lineage, folder: Path) -> View:
    """Return what the script of a report reads: the model of a bundle, and images with answers.

    The weights are empty for a model that is too large, or too extreme for float16. Everything is
    plain numbers, text and base64, the same for equal lineages.
    """
    from tasks.model.network import load_network

    facts, names = lineage.table.facts, list(lineage.dataset.class_names)
    (height, width), num_classes = facts["image_shape"], facts["num_classes"]
    network = load_network(folder / MODEL, lineage.recipe.model, height * width, num_classes)
    layers, weights = layers_of(network)
    rows, images_RP = _examples(lineage)
    return {
        "shape": [height, width],
        "classes": names,
        # As `predict` tells digits from other pictures.
        "digits": names == [str(digit) for digit in range(10)],
        "draw": all(len(name) == 1 for name in names),
        "layers": layers,
        "weights": _base64(weights),
        "rows": rows,
        "images": _base64(images_RP.tobytes()),
    }


def layers_of(network: nn.Sequential) -> tuple[list[View], bytes]:
    """Return the steps of a network in eval mode, and their weights as little-endian float16.

    A batch norm is folded into the Linear layer before it. For each Linear layer the weights have
    its matrix (outputs, inputs), row by row, and its biases. They are empty for more than
    MAX_WEIGHT_BYTES, and where a weight is no finite float16. Raises ReleaseError for an unknown
    layer.
    """
    from torch import nn

    from tasks.model.network import Normalize, Temperature

    steps, linear = list[View](), list[tuple[NDArray[Any], NDArray[Any]]]()
    for layer in network:
        match layer:
            case Normalize():
                step = {"kind": "normalize", "mean": layer.mean.item(), "std": layer.std.item()}
            case nn.Linear():
                linear.append((_array(layer.weight), _array(layer.bias)))
                sizes = {"inputs": layer.in_features, "outputs": layer.out_features}
                step = {"kind": "linear", **sizes}
            case nn.BatchNorm1d():
                names = ("weight", "bias", "running_mean", "running_var")
                gain, shift, mean, variance = (_array(getattr(layer, name)) for name in names)
                gain = gain / np.sqrt(variance + layer.eps)
                weight, bias = linear[-1]
                linear[-1] = (weight * gain[:, None], (bias - mean) * gain + shift)
                continue
            case nn.LeakyReLU():
                step = {"kind": "leaky_relu", "slope": layer.negative_slope}
            case nn.GELU():
                step = {"kind": f"gelu_{layer.approximate}"}
            case nn.ReLU() | nn.Tanh() | nn.LogSoftmax():
                step = {"kind": type(layer).__name__.lower()}
            case Temperature():
                step = {"kind": "temperature", "value": layer.temperature.item()}
            case nn.Dropout():
                continue
            case _:
                remedy = "Add it there and in report.js, as it computes in eval mode."
                expected = "a layer that tasks/release/live.py knows"
                found = type(layer).__name__
                raise ReleaseError("network", found=found, expected=expected, remedy=remedy)
        steps.append(step)
    return steps, _half(part for pair in linear for part in pair)


def _array(tensor: Any) -> NDArray[Any]:
    return np.asarray(tensor.detach().cpu().numpy())


def _half(arrays: Iterable[NDArray[Any]]) -> bytes:
    with np.errstate(over="ignore"):
        values = np.concatenate([array.ravel() for array in arrays]).astype("<f2")
    fits = values.nbytes <= MAX_WEIGHT_BYTES and np.isfinite(values).all()
    return values.tobytes() if fits else b""


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _examples(lineage: Lineage) -> tuple[list[list[Any]], NDArray[np.uint8]]:
    """Return rows (test row, label, prediction, confidence) and their images, uint8 (R, H*W).

    First the errors, the surest first, then NUM_EXAMPLES correct rows of each class, from the
    surest to the least sure; fewer where images are large.
    """
    import pyarrow.parquet as pq

    from tasks.dataset.table import read_rows

    num_classes, (height, width) = (lineage.table.facts[n] for n in ("num_classes", "image_shape"))
    columns = pq.read_table(lineage.evaluated.path / PROBABILITIES)
    index_N, label_N, answer_N = (
        columns[name].to_numpy().astype(np.int64) for name in ("index", "label", "prediction")
    )
    sure_N = np.max([columns[f"p{label}"].to_numpy() for label in range(num_classes)], axis=0)
    surest_N = np.argsort(-sure_N, kind="stable")
    most = MAX_IMAGE_BYTES // (height * width)
    chosen = list[NDArray[np.int64]]()
    for label in range(num_classes):
        right = surest_N[((label_N == label) & (answer_N == label))[surest_N]]
        chosen.append(right[evenly(len(right), min(NUM_EXAMPLES, most // (2 * num_classes)))])
    wrong = surest_N[(label_N != answer_N)[surest_N]][: most - sum(map(len, chosen))]
    shown_R = np.concatenate([wrong, *chosen])
    images_RP, _ = read_rows(lineage.table, index_N[shown_R])
    columns_R = (index_N - index_N.min(), label_N, answer_N, sure_N.astype(np.float64).round(4))
    return [
        list(row) for row in zip(*(c[shown_R].tolist() for c in columns_R), strict=True)
    ], images_RP
