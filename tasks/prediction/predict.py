"""The task of the flow `predict`: a model's answers for a batch of files.

Not a stage of the pipeline and never cached: what it reads lies outside the store.
"""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.prediction.answers import Predicted, Request, predict_files
from tasks.runtime.show import show_table


@task(
    name="answer",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=0,
    timeout_seconds=24 * 3600,
    tags=["predict"],
)
def answer(request: Request) -> Predicted:
    """Write the answers for the request's files and show how many images each class got."""
    predicted = predict_files(request)
    counts = [*predicted.counts.items(), ("no answer", predicted.num_abstained)]
    show_table(
        "predictions",
        [{"class": name, "images": count} for name, count in counts],
        f"{predicted.num_images:,} images, answered by {predicted.model}; no answer where the "
        f"probability is below {predicted.threshold:g}. In `{predicted.out}`.",
    )
    return predicted
