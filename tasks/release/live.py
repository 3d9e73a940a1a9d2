"""What the script of a report works on: the network in float16, and images of the test split.

Axes: N test rows, R rows whose images are shown, H × W pixels, C classes.
"""

from __future__ import annotations

import base64
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
    """Return what the script of a report reads: the model of a bundle, and images with answers."""
    from tasks.model.network import load_network

    facts, names = lineage.table.facts, list(lineage.dataset.class_names)
    (height, width), num_classes = facts["image_shape"], facts["num_classes"]
    network = load_network(folder / MODEL, lineage.recipe.model, height * width, num_classes)
    layers, weights = layers_of(network)
    rows, images = _examples(lineage)
    return {
        "shape": [height, width],
        "classes": names,
        # As `predict` tells digits from other pictures.
        "digits": names == [str(digit) for digit in range(10)],
        "draw": all(len(name) == 1 for name in names),
        "layers": layers,
        "weights": base64.b64encode(weights).decode(),
        "rows": rows,
        "images": base64.b64encode(images).decode(),
    }


def layers_of(network: nn.Sequential) -> tuple[list[View], bytes]:
    """Return the steps of a network in eval mode, and their weights as little-endian float16.

    A batch norm is folded into the Linear layer before it. The weights are, for each Linear layer,
    its matrix (outputs, inputs), row by row, and its biases; empty if they are more than
    MAX_WEIGHT_BYTES or too large for float16. Raises ReleaseError for an unknown layer.
    """
    from torch import nn

    from tasks.model.network import Normalize, Temperature

    steps, arrays = list[View](), list[NDArray[np.float32]]()
    for layer in network:
        state = {name: value.cpu().numpy() for name, value in layer.state_dict().items()}
        match layer:
            case Normalize():
                steps.append({"kind": "normalize", **{n: float(state[n]) for n in state}})
            case nn.Linear():
                arrays += [state["weight"], state["bias"]]
                outputs, inputs = state["weight"].shape
                steps.append({"kind": "linear", "inputs": inputs, "outputs": outputs})
            case nn.BatchNorm1d():
                gain = state["weight"] / np.sqrt(state["running_var"] + layer.eps)
                arrays[-2] = arrays[-2] * gain[:, None]
                arrays[-1] = (arrays[-1] - state["running_mean"]) * gain + state["bias"]
            case nn.LeakyReLU():
                steps.append({"kind": "leaky_relu", "slope": layer.negative_slope})
            case nn.GELU():
                steps.append({"kind": f"gelu_{layer.approximate}"})
            case nn.ReLU() | nn.Tanh() | nn.LogSoftmax():
                steps.append({"kind": type(layer).__name__.lower()})
            case Temperature():
                steps.append({"kind": "temperature", "value": float(state["temperature"])})
            case nn.Dropout():
                pass
            case _:
                remedy = "Add it to tasks/release/live.py and report.js, as it is in eval mode."
                raise ReleaseError("network", found=type(layer).__name__, remedy=remedy)
    with np.errstate(over="ignore"):
        weights = np.concatenate([array.ravel() for array in arrays]).astype("<f2")
    fits = weights.nbytes <= MAX_WEIGHT_BYTES and np.isfinite(weights).all()
    return steps, weights.tobytes() if fits else b""


def _examples(lineage: Lineage) -> tuple[list[tuple[Any, ...]], bytes]:
    """Return rows (test row, label, prediction, confidence) and their images, uint8 (R, H, W).

    First the errors, the surest first, then NUM_EXAMPLES correct rows of each class, from the
    surest to the least sure; fewer where images are large.
    """
    import pyarrow.parquet as pq

    from tasks.dataset.table import read_rows

    height, width = lineage.table.facts["image_shape"]
    columns = pq.read_table(lineage.evaluated.path / PROBABILITIES).to_pandas()
    index_N, label_N, answer_N = (columns.pop(name) for name in ("index", "label", "prediction"))
    sure_N = columns.max(axis=1).astype(float)
    surest_N = np.argsort(-sure_N.to_numpy(), kind="stable")
    is_right_N = (label_N == answer_N).to_numpy()
    num_classes, most = columns.shape[1], MAX_IMAGE_BYTES // (height * width)
    chosen, each = list[NDArray[np.int64]](), min(NUM_EXAMPLES, most // (2 * num_classes))
    for label in range(num_classes):
        right = surest_N[(is_right_N & (label_N == label).to_numpy())[surest_N]]
        chosen.append(right[evenly(len(right), each)])
    wrong = surest_N[~is_right_N[surest_N]][: most - sum(map(len, chosen))]
    shown_R = np.concatenate([wrong, *chosen])
    images_RP, _ = read_rows(lineage.table, index_N.to_numpy()[shown_R])
    found = (index_N - index_N.min(), label_N, answer_N, sure_N.round(4))
    return list(
        zip(*(row.iloc[shown_R].tolist() for row in found), strict=True)
    ), images_RP.tobytes()
