"""The data sets of the catalogue: they are complete, and their corrections fit."""

from __future__ import annotations

import pytest

from pipeline_config.datasets import FILES, dataset_names, named_dataset
from pipeline_config.recipe_files import recipe_names
from pipeline_config.sections import ConfigError
from tasks.runtime.stages import FETCH, components_of


@pytest.mark.parametrize("name", dataset_names())
def test_every_data_set_is_complete(name: str) -> None:
    dataset = named_dataset(name)
    assert tuple(dataset.files) == FILES
    assert len(dataset.class_names) == dataset.num_classes
    assert dataset.default_recipe in recipe_names()


@pytest.mark.parametrize("name", dataset_names())
def test_corrections_are_of_rows_and_classes_that_exist(name: str) -> None:
    dataset = named_dataset(name)
    if dataset.corrections is None:
        return
    labels, disputed = dataset.corrections.labels, dataset.corrections.disputed
    assert set(labels.values()) <= set(range(dataset.num_classes))
    assert not set(labels) & set(disputed)
    num_rows = (dataset.files["t10k-labels-idx1-ubyte"].num_bytes or 0) - 8
    assert max([*labels, *disputed]) < num_rows


def test_mnist_has_ten_corrections_and_five_disputes() -> None:
    corrections = named_dataset("mnist").corrections
    assert corrections is not None
    assert (len(corrections.labels), len(corrections.disputed)) == (10, 5)
    assert corrections.labels[947] == 9


def test_corrections_are_not_in_the_key_of_fetch() -> None:
    mnist = named_dataset("mnist")
    without = mnist.model_copy(update={"corrections": None})
    fetched = components_of(FETCH, {"dataset": mnist})
    assert fetched == components_of(FETCH, {"dataset": without})


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="mnist"):
        named_dataset("mnits")
