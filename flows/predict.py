"""The flow `predict`: answers for a batch of files, on a schedule or from the Prefect UI."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from tasks.prediction.answers import Predicted, Request
from tasks.prediction.predict import answer
from tasks.release.registry import CHAMPION


@flow(name="predict", flow_run_name="{model} → {out}", timeout_seconds=24 * 3600)
def predict(
    files: Annotated[tuple[str, ...], Field(min_length=1)],
    out: str,
    model: str = CHAMPION,
    dataset: str | None = None,
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.0,
) -> Predicted:
    """Classify every image of some files or folders and write the answers to `out`.

    `model` is "champion" (of `dataset`), a version, a bundle's folder or an .onnx file. Below the
    confidence `threshold` there is no answer. `out` is a .parquet or .json file.
    """
    return answer(Request(**locals()))
