"""The Prefect task of the flow `predict`. It is never cached: its files are not in the store."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.prediction.answers import Predicted, Request, predict_files
from tasks.runtime.show import show_table


@task(cache_policy=NO_CACHE, persist_result=False, timeout_seconds=24 * 3600, tags=["predict"])
def answer(request: Request) -> Predicted:
    """Classify the request's images and show how many each class has."""
    predicted = predict_files(request)
    counts = {**predicted.counts, "no answer": predicted.num_abstained}
    limit = f"no answer below the probability {predicted.threshold:g}. In `{predicted.out}`."
    words = f"{predicted.num_images:,} images, answered by {predicted.model}; {limit}"
    rows = [{"class": name, "images": count} for name, count in counts.items()]
    show_table("predictions", rows, words)
    return predicted
