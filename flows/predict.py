"""The flows `predict` and `monitor`: answers for files, and whether their images drifted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefect import State, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed
from pydantic import Field

from tasks.prediction.answers import Predicted, Request, predict_files
from tasks.prediction.drift import DRIFT
from tasks.prediction.monitor import Monitored, monitor
from tasks.release.registry import CHAMPION, DEFAULT_DATASET
from tasks.runtime.show import emit, link_to, show_table


@flow(name="predict", flow_run_name="{model} → {out}", timeout_seconds=24 * 3600)
def predict(
    files: Annotated[tuple[str, ...], Field(min_length=1)],
    out: str,
    model: str = CHAMPION,
    dataset: str | None = None,
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.0,
    log: bool = False,
) -> Predicted:
    """Classify every image of some files or folders and write the answers to `out`.

    `model` is "champion" (of `dataset`), a version, a bundle's folder or an .onnx file. Below the
    confidence `threshold` there is no answer. `out` is a .parquet, .json or .csv file. With `log`
    images and answers of a published model are kept, for the flow `monitor`.
    """
    return answer(Request(**locals()))


@task(cache_policy=NO_CACHE, persist_result=False, timeout_seconds=24 * 3600, tags=["predict"])
def answer(request: Request) -> Predicted:
    """Classify the images and show how many each class has. Never cached: files may change."""
    predicted = predict_files(request)
    counts = {**predicted.counts, "unsure": predicted.num_abstained}
    counts |= {"rejected": predicted.num_rejected, "errors": predicted.num_errors}
    limit = f"unsure below the probability {predicted.threshold:g}. In `{predicted.out}`."
    words = f"{predicted.num_images:,} images, answered by {predicted.model}; {limit}"
    rows = [{"class": name, "images": count} for name, count in counts.items()]
    show_table("predictions", rows, words)
    return predicted


@flow(name="monitor", flow_run_name="monitor · {dataset}", timeout_seconds=24 * 3600)
def monitor_images(
    files: tuple[str, ...] = (), dataset: str = DEFAULT_DATASET
) -> Monitored | State[Monitored]:
    """Compare images with a data set's training rows; without files, those of `predict --log`.

    Where they differ, the event `idxflow.drift.detected` has all figures.
    """
    found = compare_images(dataset, files)
    return Completed(message=found.words, data=found)


@task(cache_policy=NO_CACHE, persist_result=False, timeout_seconds=24 * 3600, tags=["monitor"])
def compare_images(dataset: str, files: tuple[str, ...]) -> Monitored:
    """Return the comparison, and show its signals and page. Never cached: files may change."""
    found = monitor(dataset, files)
    page = f". The page: {link_to(Path(found.page))}" if found.page else ""
    show_table("drift", found.signals, f"{found.words}{page}")
    if found.verdict == DRIFT:
        emit("idxflow.drift.detected", f"idxflow.data.{dataset}", found.model_dump(mode="json"))
    return found
