"""The tutorials' recipes have the tutorials' network, input, split, loss and optimiser."""

from __future__ import annotations

import pytest
import torch

from pipeline_config.recipe_files import load_recipe, recipe_names
from tasks.dataset.normalize import split_rows
from tasks.model.network import build_network, initialize

SPECIFIED = {
    # network, initialisation, dropout | loss, output | optimiser, rate, epsilon | epochs, batch
    "keras-blog": "128-64 glorot_uniform (0.2, 0.0) cross_entropy logits adamax 0.001 1e-07 10 32",
    "nnfwp": "16-16 inverse_size_normal (0.0, 0.0) mse activation sgd 0.001 1e-08 1 1",
    "selene": "128 torch (0.0,) nll log_softmax adam 0.0001 1e-08 10 64",
    "dense512": "512 glorot_uniform (0.2,) cross_entropy logits adam 0.001 1e-07 5 128",
    "digit-classifier": "128 he_normal (0.0,) cross_entropy logits sgd 0.1 1e-08 5 64",
}
SCALINGS = {
    "keras-blog": "none",
    "nnfwp": "none",
    "selene": "none",
    "dense512": "unit",
    "digit-classifier": "unit",
    "challenge-985": "standard",
}
# Rows that train, validate and test.
ROWS = {
    "keras-blog": (44_800, 11_200, 14_000),
    "nnfwp": (60_000, 0, 10_000),
    "selene": (60_000, 0, 10_000),
    "dense512": (54_000, 6_000, 10_000),
    "digit-classifier": (60_000, 0, 10_000),
}


@pytest.mark.parametrize(("name", "specified"), SPECIFIED.items())
def test_a_recipe_has_the_network_and_the_training_of_its_tutorial(
    name: str, specified: str
) -> None:
    recipe = load_recipe(name)
    model, training, optimizer = recipe.model, recipe.training, recipe.training.optimizer
    widths = "-".join(map(str, model.hidden))
    assert specified == (
        f"{widths} {model.initialization} {model.dropout} {training.loss} {model.output} "
        f"{optimizer.name} {optimizer.learning_rate} {optimizer.epsilon} "
        f"{training.epochs} {training.batch_size}"
    )
    assert (optimizer.betas, optimizer.momentum, optimizer.weight_decay) == ((0.9, 0.999), 0, 0)
    assert training.schedule.name == "constant"
    assert (training.ema, training.patience, training.label_smoothing) == (0, 0, 0)
    assert training.augmentation is None
    assert not model.batch_norm


@pytest.mark.parametrize(("name", "scaling"), SCALINGS.items())
def test_the_input_is_scaled_as_in_the_tutorial(name: str, scaling: str) -> None:
    assert load_recipe(name).scaling == scaling


@pytest.mark.parametrize(("name", "rows"), ROWS.items())
def test_the_rows_are_divided_as_in_the_tutorial(name: str, rows: tuple[int, int, int]) -> None:
    labels = torch.arange(70_000).remainder(10).numpy()
    parts = split_rows(load_recipe(name).split, labels, 60_000)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == rows


@pytest.mark.parametrize("name", recipe_names())
def test_tutorials_do_not_compete_and_those_with_curves_keep_their_epochs(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.competes == (name not in SCALINGS)
    assert recipe.training.keep_epochs == (name in {"selene", "digit-classifier"})


def test_nnfwp_has_leaky_relu_after_every_layer_and_tiny_initial_weights() -> None:
    model = load_recipe("nnfwp").model
    network = build_network(model, 784, 10, mean=0.0, std=1.0)
    initialize(network, model, seed=0)
    leaks = [layer for layer in network if isinstance(layer, torch.nn.LeakyReLU)]
    assert [leak.negative_slope for leak in leaks] == [0.1] * 3
    first = next(layer for layer in network if isinstance(layer, torch.nn.Linear))
    assert first.weight.std().item() == pytest.approx(1 / (784 * 16), rel=0.05)


def test_keras_blog_has_dropout_only_after_its_first_layer() -> None:
    network = build_network(load_recipe("keras-blog").model, 784, 10, mean=0.0, std=1.0)
    names = [type(layer).__name__ for layer in network]
    assert names == [
        *("Normalize", "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Linear", "Temperature"),
    ]


def test_the_challenge_recipe_follows_its_text() -> None:
    recipe = load_recipe("challenge-985")
    assert len(recipe.model.hidden) == 2
    assert all(recipe.model.dropout)
    assert recipe.training.optimizer.name in {"adam", "adamw"}
    assert recipe.training.optimizer.weight_decay > 0
    assert recipe.split.validation.kind != "none"
