"""What other tools make of a bundle: Hugging Face's card, plain torch, onnxruntime, MLflow."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from safetensors import safe_open

from pipeline_config.recipe_files import load_recipe
from tasks.release.assemble import ensure_bundle
from tasks.release.bundle import (
    CARD,
    GOLDEN,
    METRICS,
    MLMODEL,
    MODEL,
    ONNX,
    bundle_folder,
    read_golden,
)

# Imports of this project fail.
ALONE = "import sys; sys.modules |= dict.fromkeys(('flows', 'tasks', 'pipeline_config')); "
NETWORKS = {
    "batch norm, GELU": ("model.hidden=[6]", "model.activation=gelu", "model.batch_norm=true"),
    "leaky, log-softmax": (
        "model.hidden=[6,5]",
        "model.activation=leaky_relu",
        "model.negative_slope=0.3",
        "model.output=log_softmax",
        "training.loss=nll",
        "training.label_smoothing=0.0",
        "model.batch_norm=false",
    ),
}


@pytest.fixture(params=NETWORKS, ids=str)
def bundle(request: pytest.FixtureRequest, make_lineage) -> Path:
    recipe = load_recipe("fast", (*NETWORKS[request.param], "split.validation.rows=10"))
    manifest, _ = ensure_bundle(make_lineage(recipe=recipe))
    return bundle_folder(manifest.dataset, manifest.version)


def test_the_card_has_the_hubs_metadata(bundle: Path) -> None:
    from huggingface_hub import ModelCard

    card, metrics = ModelCard.load(bundle / CARD), json.loads((bundle / METRICS).read_bytes())
    assert card.data.license == "apache-2.0"
    assert card.data.datasets == ["mnist"]
    found = {each.metric_type: each for each in card.data.eval_results}
    assert found["accuracy"].metric_value == metrics["accuracy"]
    assert found["accuracy"].metric_args["interval_95"] == metrics["accuracy_interval_95"]
    assert found["f1"].metric_value == metrics["macro_f1"]


def test_the_snippets_of_the_card_answer_without_this_project(bundle: Path) -> None:
    expected = read_golden(bundle / GOLDEN)[1].argmax(axis=1)
    snippets = re.findall(r"```python\n(.*?)```", (bundle / CARD).read_text(), re.DOTALL)
    assert len(snippets) == 2
    for snippet in snippets:
        words = [sys.executable, "-c", ALONE + "exec(sys.stdin.read())"]
        done = subprocess.run(
            words, input=snippet, cwd=bundle, check=True, capture_output=True, text=True
        )
        assert [int(n) for n in re.findall(r"\d+", done.stdout)] == expected.tolist()


def test_weights_have_names_and_the_onnx_model_says_what_it_is(bundle: Path) -> None:
    with safe_open(bundle / MODEL, framework="np") as file:
        assert file.metadata() == {"format": "pt"}
        assert {"scaling.mean", "hidden1.weight", "output.bias"} <= {*file.keys()}
    model = onnx.load(bundle / ONNX)
    assert (model.producer_name, model.producer_version) == ("idxflow", "0.1.0")
    assert "grey images" in model.doc_string
    words = {word.key: word.value for word in model.metadata_props}
    assert words["dataset"] == "mnist"
    assert json.loads(words["class_names"]) == list("0123456789")


def test_mlflow_finds_the_model_and_its_form(bundle: Path) -> None:
    content = yaml.safe_load((bundle / MLMODEL).read_text())
    assert (bundle / content["flavors"]["onnx"]["data"]).is_file()
    (images,) = json.loads(content["signature"]["inputs"])
    assert images["tensor-spec"] == {"dtype": "uint8", "shape": [-1, 4, 5]}


MLFLOW = """
import sys, numpy, mlflow
folder, images, expected = sys.argv[1:]
answers = mlflow.pyfunc.load_model(folder).predict({"images": numpy.load(images)})
assert numpy.abs(answers["probabilities"] - numpy.load(expected)).max() < 1e-5
print(mlflow.register_model(f"file://{folder}", "digits").version)
"""


@pytest.mark.exhaustive
def test_mlflow_loads_and_registers_the_bundle(make_lineage, tmp_path: Path) -> None:
    """In an environment of its own: nothing else needs MLflow."""
    manifest, _ = ensure_bundle(make_lineage())
    bundle = bundle_folder(manifest.dataset, manifest.version)
    for name, array in zip(("images", "expected"), read_golden(bundle / GOLDEN), strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    tools = ("mlflow==3.17.2", "onnx", "onnxruntime")
    subprocess.run([python, "-m", "pip", "install", "-q", *tools], check=True)
    environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "HOME": str(tmp_path)}
    words = [python, "-c", MLFLOW, bundle, tmp_path / "images.npy", tmp_path / "expected.npy"]
    done = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["1"]
