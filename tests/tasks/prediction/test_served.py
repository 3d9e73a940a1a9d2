"""The log of what was answered: whole files, of published models alone, read newest first."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.prediction import inputs
from tasks.prediction.answers import Predicted, Request, predict_files
from tasks.prediction.classifier import load_classifier
from tasks.prediction.pictures import Form
from tasks.prediction.served import newest_served, served_files
from tasks.raw.idx import write_idx
from tasks.runtime.errors import ConfigError, RawDataError

MakeBundle = Callable[..., Path]
FORM = Form(28, 28, is_digits=True)


def log(model: Path, images: np.ndarray, folder: Path) -> Predicted:
    folder.mkdir(exist_ok=True)
    write_idx(folder / "images", images)
    return predict_files(Request(files=(str(folder / "images"),), model=str(model), log=True))


def test_pixels_and_answers_are_kept_batch_by_batch(
    make_bundle: MakeBundle, digits: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "BATCH", 4)
    bundle = make_bundle()
    log(bundle, digits, tmp_path / "given")
    (path,) = served_files("mnist")
    assert pq.ParquetFile(path).num_row_groups == 3
    rows = pq.read_table(path).to_pylist()
    assert [row["image"] for row in rows] == [image.tobytes() for image in digits]
    assert [row["sha256"] for row in rows] == [sha256(image).digest() for image in digits]
    assert {row["version"] for row in rows} == {bundle.name}
    model = load_classifier(str(bundle), None).model
    likely = np.array([row["probabilities"] for row in rows], np.float32)
    assert np.allclose(likely, model.probabilities(digits), atol=1e-5)
    # Its own files can be classified again.
    again = predict_files(Request(files=(str(path.parent),), model=str(bundle)))
    assert again.counts == dict.fromkeys("0123456789", 1)


def test_nothing_is_kept_unless_asked_nor_after_an_error(
    make_bundle: MakeBundle, digits: np.ndarray, tmp_path: Path, root: Path
) -> None:
    bundle = make_bundle()
    write_idx(tmp_path / "0", digits)
    predict_files(Request(files=(str(tmp_path / "0"),), model=str(bundle)))
    (tmp_path / "1").write_bytes((tmp_path / "0").read_bytes()[:-1])
    with pytest.raises(RawDataError):
        predict_files(Request(files=(str(tmp_path / "1"),), model=str(bundle), log=True))
    assert served_files("mnist") == []
    assert [*(root / "scratch").iterdir()] == []


def test_only_a_published_model_has_a_log(
    make_bundle: MakeBundle, digits: np.ndarray, tmp_path: Path
) -> None:
    bundle = make_bundle()
    elsewhere = bundle.rename(tmp_path / "copied")
    for model in (elsewhere, elsewhere / "model.onnx"):
        with pytest.raises(ConfigError, match="outside of the published ones"):
            log(model, digits, tmp_path / "given")


def test_the_newest_distinct_images_are_read(
    make_bundle: MakeBundle, digits: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = make_bundle()
    assert newest_served("mnist", FORM, 10, 5) is None
    log(bundle, digits[:6], tmp_path / "given")
    log(bundle, digits[[5, 6, 7, 7]], tmp_path / "given")
    found = newest_served("mnist", FORM, 10, 5)
    assert found is not None
    assert np.array_equal(found.images_NHW, digits[[7, 6, 5, 4, 3]])
    assert found.digests == [sha256(image).digest() for image in found.images_NHW]
    assert list(found.probabilities_NC.argmax(axis=1)) == [7, 6, 5, 4, 3]
    assert found.times == sorted(found.times, reverse=True)
    for other in ((Form(8, 8, is_digits=True), 10), (FORM, 3)):
        assert newest_served("mnist", *other, 5) is None

    newest = served_files("mnist")[0]
    newest.write_bytes(newest.read_bytes()[:-9])
    found = newest_served("mnist", FORM, 10, 5)
    assert found is not None
    assert np.array_equal(found.images_NHW, digits[[5, 4, 3, 2, 1]])
    assert f"{newest} is left out" in caplog.text
