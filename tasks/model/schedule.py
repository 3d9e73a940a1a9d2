"""How the learning rate moves over a training."""

from __future__ import annotations

import math

from pipeline_config.recipe import Schedule


def learning_rate_at(step: int, num_steps: int, peak: float, schedule: Schedule) -> float:
    """The learning rate of a step in [0, num_steps).

    one_cycle: a line from peak/10 to peak over the warm-up, then half a cosine down to peak/1000
    (after Smith and Topin 2018, with the cosine of Loshchilov and Hutter 2017). cosine: a line from
    0 to peak over the warm-up, then half a cosine down to 0.
    """
    if schedule.name == "constant":
        return peak
    first, last = (peak / 10, peak / 1000) if schedule.name == "one_cycle" else (0.0, 0.0)
    warm = schedule.warmup * num_steps
    if step < warm:
        return first + (peak - first) * (step + 1) / math.ceil(warm)
    share = (step - warm) / max(num_steps - 1 - warm, 1)
    return last + (peak - last) * (1 + math.cos(math.pi * min(share, 1.0))) / 2
