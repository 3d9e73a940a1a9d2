"""The classic mistakes of training, where a recipe makes them on purpose: allowed, and said aloud.

The figures are mean accuracies over seeds on MNIST's test split, of a recipe with and without the
one choice that the sentence is about: five seeds of digit-classifier, three of keras-blog.
"""

from __future__ import annotations

from pipeline_config.recipe import NoValidation, Recipe

RAW_INPUT = (
    "The pixels enter raw, 0 to 255, so the first layer's gradients are hundreds of times larger "
    "than with inputs near 1: digit-classifier reaches 11 % in this way instead of 97 %, and "
    "keras-blog 94 % instead of 97 %."
)
MSE = (
    "The loss is the mean square error, whose gradient fades where the network is sure and wrong: "
    "digit-classifier reaches 93 % with it instead of 97 %, and the outputs are no probabilities."
)
IN_ORDER = (
    "The rows are not shuffled. MNIST's come well mixed, which hides the cost: sorted by class, "
    "they take digit-classifier from 97 % to 18 %, which unlearns one class with the next."
)
NO_VALIDATION = (
    "There are no validation rows: nothing can be chosen, and the confidence stays uncalibrated."
)


def cautions_of(recipe: Recipe) -> tuple[str, ...]:
    """A sentence or two for each classic mistake that the recipe makes, with what it costs."""
    made = {
        RAW_INPUT: recipe.scaling == "none",
        MSE: recipe.training.loss == "mse",
        IN_ORDER: not recipe.training.shuffle,
        NO_VALIDATION: isinstance(recipe.split.validation, NoValidation),
    }
    return tuple(caution for caution, is_made in made.items() if is_made)
