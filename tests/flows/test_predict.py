"""`idxflow predict` and the flow `predict`, with a model that the pipeline published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flows.summary import Summary
from tasks.raw.idx import read_idx, write_idx

pytestmark = pytest.mark.flow
Shell = Callable[..., tuple[int, str, str]]
DATASET = ("--dataset", "digits8x8")


def test_a_published_model_answers_from_the_command_line_and_as_a_flow(
    idxflow: Shell, run: Callable[..., Summary], root: Path, tmp_path: Path
) -> None:
    published = run(overrides=("training.epochs=2",), force_promote="to be asked")
    (images,) = root.glob("stages/fetch-*/t10k-images-idx3-ubyte")
    answers_as_when_it_was_scored(idxflow, published, images, tmp_path)
    prints_answers(idxflow, published, images, tmp_path)
    shows_counts_as_an_artifact(published, images, tmp_path)
    sees_drift_and_no_drift(idxflow, images, tmp_path)
    monitors_what_was_kept(idxflow, images, root, tmp_path)


def answers_as_when_it_was_scored(
    idxflow: Shell, published: Summary, images: Path, folder: Path
) -> None:
    (table,) = images.parents[1].glob("convert-*/test.parquet")
    truth = pq.read_table(table)["label"].to_numpy()
    for number, file in enumerate((images, table)):
        out = folder / f"{number}.parquet"
        code, printed, err = idxflow("predict", str(file), *DATASET, "--out", str(out))
        assert code == 0, err
        assert printed.splitlines()[0].split() == ["class", "count"]
        assert f"360 images, answered by digits8x8/{published.version}" in err
        best = pq.read_table(out)["best"].to_numpy().astype(int)
        assert (best == truth).mean() == pytest.approx(published.metrics["accuracy"])


def prints_answers(idxflow: Shell, published: Summary, images: Path, folder: Path) -> None:
    code, out, err = idxflow("predict", str(images), *DATASET, "--threshold", "0.99", "--json")
    assert code == 0, err
    printed = json.loads(out)
    assert printed["model"] == f"digits8x8/{published.version}"
    assert [row["index"] for row in printed["answers"]] == list(range(360))
    assert (printed["num_images"], printed["out"]) == (360, None)
    without = printed["num_abstained"] + printed["num_rejected"]
    assert without == sum(row["class"] is None for row in printed["answers"])
    assert printed["num_abstained"] > 0
    assert sum(printed["counts"].values()) == 360 - without

    picture = folder / "[a] picture.png"
    Image.fromarray(read_idx(images)[0]).save(picture)
    code, out, err = idxflow("predict", str(picture), *DATASET)
    assert code == 0, err
    head, row = out.splitlines()
    assert head.split() == ["source", "index", "class", "best", "probability", "reason"]
    assert row.startswith(str(picture))
    noise = folder / "noise-idx3-ubyte"
    write_idx(noise, np.random.default_rng(0).integers(0, 256, (50, 8, 8)).astype(np.uint8))
    code, out, err = idxflow("predict", str(noise), *DATASET)
    assert code == 0, err
    assert out.count("not like the training images") == 20
    assert "50 rejected" in err

    code, out, err = idxflow("predict", str(images), *DATASET)
    assert len(out.splitlines()) == 1 + 20
    assert "and 340 more" in err


def shows_counts_as_an_artifact(published: Summary, images: Path, folder: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    from flows.predict import predict

    out = folder / "answers.json"
    model = published.version[:6]
    found = predict(files=(str(images),), out=str(out), model=model, threshold=0.99)
    rows = json.loads(out.read_text())
    assert len(rows) == found.num_images == 360
    assert found.num_abstained == sum(row["abstained"] for row in rows) > 0
    with get_client(sync_client=True) as client:
        shown = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["predictions"]))
        )
    tables = [{row["class"]: row["images"] for row in json.loads(each.data)} for each in shown]
    others = {"unsure": found.num_abstained, "rejected": found.num_rejected, "errors": 0}
    assert {**found.counts, **others} in tables


def sees_drift_and_no_drift(idxflow: Shell, images: Path, tmp_path: Path) -> None:
    code, out, _ = idxflow("monitor", "digits8x8", str(images), "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["verdict"], found["num_images"]) == ("no drift", 360)
    assert [signal["name"] for signal in found["signals"]] == [
        "auc",
        "estimated_accuracy",
        "class_shares",
    ]
    inverted = tmp_path / "inverted-images-idx3-ubyte"
    write_idx(inverted, 255 - read_idx(images))
    code, out, _ = idxflow("monitor", "digits8x8", str(inverted), "--json")
    assert (code, json.loads(out)["verdict"]) == (0, "drift")
    from flows.predict import monitor_images

    seen = monitor_images(files=(str(inverted),), dataset="digits8x8")
    assert seen.verdict == "drift"
    assert any(signal["alarms"] for signal in seen.signals)
    few = tmp_path / "few-images-idx3-ubyte"
    write_idx(few, read_idx(images)[:20])
    code, out, _ = idxflow("monitor", "digits8x8", str(few), "--json")
    assert json.loads(out)["verdict"] == "too few"
    assert idxflow("monitor", "mnist", str(few))[0] == 1


def monitors_what_was_kept(idxflow: Shell, images: Path, root: Path, tmp_path: Path) -> None:
    from flows.predict import monitor_images, predict

    assert monitor_images(dataset="digits8x8", return_state=True).message.startswith("too few: no ")
    out = str(tmp_path / "kept.json")
    predict(files=(str(images),), out=out, dataset="digits8x8", log=True)
    found = monitor_images(dataset="digits8x8")
    assert (found.verdict, found.num_images) == ("no drift", 360)
    page = root / "monitor" / "digits8x8.html"
    assert found.page == str(page)
    assert "no drift" in page.read_text()
    folder = tmp_path / "to label"
    code, _, err = idxflow("predict", str(images), *DATASET, "--to-label", "3", str(folder))
    assert code == 0, err
    assert f"`idxflow data add digits8x8 {folder}`" in err
    assert len([*folder.glob("*.png")]) == 3
    code, _, err = idxflow("monitor", "digits8x8")
    assert f"page: {page}" in err


def test_bad_input_is_one_clear_error(idxflow: Shell, tmp_path: Path) -> None:
    code, out, err = idxflow("predict", str(tmp_path / "nowhere.png"), "--dataset", "mnist")
    assert (code, out) == (1, "")
    assert "no published champion" in err
    for words in ((), ("a.png", "--threshold", "2")):
        assert idxflow("predict", *words)[0] == 2
