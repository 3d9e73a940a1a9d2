"""Answers: the right ones, whole or not at all, from an intact model, in flat memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flows.predict import answer
from tasks.prediction import explained, inputs
from tasks.prediction.answers import NUM_FIRST, Predicted, Request, predict_files
from tasks.prediction.classifier import load_classifier
from tasks.prediction.served import served_files
from tasks.raw.idx import write_idx
from tasks.runtime.errors import ConfigError, IdxflowError, RawDataError, ReleaseError

Draw = Callable[..., Image.Image]
MakeBundle = Callable[..., Path]


def ask(model: Path, *files: Path, **more: object) -> Predicted:
    return predict_files(Request(files=tuple(map(str, files)), model=str(model), **more))


@pytest.fixture(autouse=True)
def one_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explained, "NUM_SHOWN", 1)


@pytest.fixture
def photos(draw: Draw, tmp_path: Path) -> Path:
    """Ten photos of the digits: of several sizes, dark on light and light on dark, as JPEG."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for digit in range(10):
        ink, paper = (230, 30) if digit % 2 else (40, 200)
        picture = draw(str(digit), size=100 + 50 * digit, share=0.5, ink=ink, paper=paper)
        picture.save(folder / f"{digit}.jpg")
    return folder


def test_photos_of_digits_are_recognised(make_bundle: MakeBundle, photos: Path) -> None:
    found = ask(make_bundle(), photos)
    assert [row["class"] for row in found.first] == [*"0123456789"]
    assert [row["source"] for row in found.first] == [str(photos / f"{d}.jpg") for d in range(10)]
    assert min(row["probability"] for row in found.first) > 0.9
    assert found.counts == dict.fromkeys("0123456789", 1)
    assert (found.num_images, found.num_abstained, found.out) == (10, 0, None)


def test_an_image_has_the_same_answer_in_every_format(
    make_bundle: MakeBundle, digits: np.ndarray, tmp_path: Path
) -> None:
    write_idx(tmp_path / "all-idx3-ubyte", digits)
    for digit, image in enumerate(digits):
        Image.fromarray(image).save(tmp_path / f"{digit}.png")
    found = ask(make_bundle(), tmp_path)
    as_pictures, as_rows = found.first[:10], found.first[10:]
    assert [row["index"] for row in as_rows] == list(range(10))
    for picture, row in zip(as_pictures, as_rows, strict=True):
        assert picture["best"] == row["best"]
        assert picture["probability"] == pytest.approx(row["probability"], abs=2e-6)


def test_the_files_have_every_answer(
    make_bundle: MakeBundle, digits: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "BATCH", 7)
    write_idx(tmp_path / "many", np.tile(digits, (5, 1, 1)))
    model = make_bundle()
    for name in ("deep/answers.parquet", "answers.json"):
        out = tmp_path / name
        found = ask(model, tmp_path / "many", out=str(out))
        rows = pq.read_table(out).to_pylist() if out.suffix == ".parquet" else read_json(out)
        assert [row["index"] for row in rows] == list(range(50))
        assert [row["best"] for row in rows] == [*"0123456789"] * 5
        assert list(found.first) == rows[:NUM_FIRST]
        assert found.counts == dict.fromkeys("0123456789", 5)
        assert (found.out, found.num_images) == (str(out), 50)
        assert set(rows[0]) == {"source", "index", "class", "best", "probability", "abstained"} | {
            "rejected",
            "reason",
            "box",
        }


def read_json(path: Path) -> list[dict[str, object]]:
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def test_the_model_abstains_below_the_threshold(
    make_bundle: MakeBundle, digits: np.ndarray, tmp_path: Path
) -> None:
    halves = np.stack([digits[1], (digits[3] // 2 + digits[8] // 2)])
    write_idx(tmp_path / "images", halves)
    model, out = make_bundle(), str(tmp_path / "answers.parquet")
    unsure = ask(model, tmp_path / "images").first[1]["probability"]
    found = ask(model, tmp_path / "images", threshold=unsure + 0.01, out=out)
    sure, other = pq.read_table(out).to_pylist()
    assert (sure["class"], sure["abstained"]) == ("1", False)
    assert (other["class"], other["abstained"]) == (None, True)
    assert other["best"] in "38"
    assert (found.num_abstained, sum(found.counts.values())) == (1, 1)


def spoil(photos: Path, fault: str) -> Path:
    bad = photos / "99.png"
    match fault:
        case "truncated":
            bad.write_bytes((photos / "3.jpg").read_bytes()[:900])
        case "not an image":
            bad.write_text("<html>")
        case "an IDX file cut off":
            bad.write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28, 9]))
        case _:
            Image.new("L", (90, 90), 200).save(bad)
    return bad


FAULTS = ["truncated", "not an image", "no ink", "an IDX file cut off"]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["a.parquet", "a.json", "a.csv"])
def test_what_cannot_be_read_is_a_row_with_its_error(
    make_bundle: MakeBundle, photos: Path, tmp_path: Path, fault: str, name: str
) -> None:
    bad, out = spoil(photos, fault), tmp_path / name
    found = ask(make_bundle(), photos, out=str(out), explain=str(tmp_path / "explained.png"))
    assert (found.num_images, found.num_errors) == (11, 1)
    assert found.counts == dict.fromkeys("0123456789", 1)
    table = {"parquet": pq.read_table, "csv": pa_csv.read_csv}
    kind = out.suffix[1:]
    rows = read_json(out) if kind == "json" else table[kind](out).to_pylist()
    (row,) = (row for row in rows if row["source"] == str(bad))
    assert str(row["reason"]).startswith("error: ")
    assert row["class"] in (None, "")


@pytest.mark.parametrize("fault", FAULTS)
def test_where_nothing_can_be_read_there_is_one_error_and_no_file(
    make_bundle: MakeBundle, photos: Path, tmp_path: Path, fault: str
) -> None:
    bad, folder = spoil(photos, fault), tmp_path / "out"
    folder.mkdir()
    (folder / "a.json").write_text("the answers of yesterday")
    with pytest.raises(RawDataError) as caught:
        ask(make_bundle(), bad, out=str(folder / "a.json"))
    assert caught.value.what == str(bad)
    assert [path.name for path in folder.iterdir()] == ["a.json"]
    assert (folder / "a.json").read_text() == "the answers of yesterday"


def test_every_digit_of_a_picture_is_answered_from_left_to_right(
    make_bundle: MakeBundle, draw: Draw, tmp_path: Path
) -> None:
    wide = Image.new("L", (1200, 300), 230)
    for place, digit in enumerate("5072"):
        wide.paste(draw(digit), (300 * place, 0))
    wide.save(tmp_path / "several.png")
    found = ask(make_bundle(), tmp_path / "several.png").first
    assert [row["class"] for row in found] == [*"5072"]
    assert [row["index"] for row in found] == [0, 1, 2, 3]
    for place, row in enumerate(found):
        left, top, right, bottom = row["box"]
        assert 300 * place < left < right < 300 * (place + 1)
        assert 0 < top < bottom < 300
    with pytest.raises(RawDataError, match="a picture of 4 digits"):
        ask(make_bundle(weights=b"others"), tmp_path / "several.png", single=True)


def test_its_own_outputs_are_not_read_the_next_time(make_bundle: MakeBundle, photos: Path) -> None:
    words = {"out": str(photos / "a.parquet"), "explain": str(photos / "explained.png")}
    model = make_bundle()
    for _ in range(2):
        assert ask(model, photos, **words).num_images == 10
    assert sorted(path.suffix for path in photos.iterdir()) == [".jpg"] * 10 + [".parquet", ".png"]
    with Image.open(words["explain"]) as figure:
        assert figure.size[0] == 960


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"out": "a.txt"}, "the ending '.txt', expected a .parquet or .json or .csv file"),
        ({"explain": "a.jpg"}, "the ending '.jpg', expected a .png file"),
        ({"out": "photos/0.json"}, "a file that is to be read"),
        ({"out": "folder.json"}, "a folder of that name"),
        ({"out": "photos/1.jpg/a.json"}, "a file in place of its folder"),
    ],
)
def test_an_impossible_output_path_is_refused_first(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: object, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.json").mkdir()
    (photos / "0.json").touch()
    with pytest.raises(ConfigError, match=words):
        ask(Path("no such model"), photos / "0.json", **more)  # type: ignore[arg-type]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["model", "manifest", "no model", "no manifest"])
def test_a_damaged_model_is_refused(make_bundle: MakeBundle, photos: Path, damage: str) -> None:
    folder = make_bundle()
    match damage:
        case "model":
            flip(folder / "model.onnx")
        case "manifest":
            path = folder / "manifest.json"
            path.write_text(path.read_text().replace('"fast"', '"best"'))
        case "no model":
            (folder / "model.onnx").unlink()
        case _:
            (folder / "manifest.json").unlink()
    with pytest.raises(ReleaseError):
        ask(folder, photos)
    if damage != "no manifest":
        with pytest.raises(ReleaseError, match=r"model\.onnx: found"):
            ask(folder / "model.onnx", photos)


def test_other_damage_in_the_bundle_does_not_matter(make_bundle: MakeBundle, photos: Path) -> None:
    folder = make_bundle()
    flip(folder / "metrics.json")
    assert ask(folder, photos).num_images == 10


def test_an_onnx_file_is_enough(digits_onnx: bytes, photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "alone.onnx"
    path.write_bytes(digits_onnx)
    found = ask(path, photos)
    assert (found.model, found.counts["7"]) == ("mnist/v1", 1)


@pytest.mark.parametrize("content", [b"", b"no model", None])
def test_a_foreign_model_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "foreign.onnx"
    path.write_bytes(foreign_onnx() if content is None else content)
    with pytest.raises(ReleaseError, match=r"foreign\.onnx: found"):
        load_classifier(str(path), None)


def foreign_onnx() -> bytes:
    """A whole ONNX model that is no classifier of images."""
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "ab"]
    graph = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "g", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def test_explain_needs_a_picture(make_bundle: MakeBundle, tmp_path: Path) -> None:
    write_idx(tmp_path / "images", np.ones((1, 28, 28), np.uint8))
    with pytest.raises(ConfigError, match="no readable picture among the files"):
        ask(make_bundle(), tmp_path / "images", explain=str(tmp_path / "explained.png"))


def test_the_task_returns_the_same(make_bundle: MakeBundle, photos: Path) -> None:
    request = Request(files=(str(photos),), model=str(make_bundle()))
    assert answer.fn(request) == predict_files(request)


MEASURED = """
import resource, sys
from tasks.prediction.answers import Request, predict_files
model, out, kind, *files = sys.argv[1:]
for file in files:
    predict_files(Request(files=(file,), model=model, out=out, log=kind == "log"))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.parametrize(
    "kind", ["idx", "log", pytest.param("parquet", marks=pytest.mark.exhaustive)]
)
def test_memory_does_not_grow_with_the_number_of_images(
    make_bundle: MakeBundle, tmp_path: Path, kind: str
) -> None:
    import pyarrow as pa

    files = []
    for num_images in (4096, 32768):
        images = np.zeros((num_images, 28, 28), np.uint8)
        images[:, 5:20, 10] = 255
        files.append(str(tmp_path / f"{num_images}"))
        if kind != "parquet":
            write_idx(Path(files[-1]), images)
        else:
            column = pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(784), num_images, [None, pa.py_buffer(images)]
            )
            pq.write_table(pa.table({"image": column}), files[-1], row_group_size=4096)
    words = [str(make_bundle()), str(tmp_path / "answers.parquet"), kind, *files]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *words],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "MALLOC_ARENA_MAX": "2"},
    )
    few, many = map(int, done.stdout.split())
    # All of the images would be 26 MB, and all answers together some 15.
    assert many - few < 10


def test_a_request_outside_its_bounds_is_refused() -> None:
    for wrong in ({"files": ()}, {"threshold": 1.1}, {"threshold": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Request(**{"files": ("a",), **wrong})


def test_a_full_disk_is_one_error_and_leaves_nothing(
    make_bundle: MakeBundle, tmp_path: Path, digits: np.ndarray
) -> None:
    import resource

    write_idx(tmp_path / "images", np.tile(digits, (400, 1, 1)))
    model = make_bundle()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    for name in ("a.parquet", "a.json"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
        try:
            with pytest.raises(IdxflowError, match="no room to write"):
                ask(model, tmp_path / "images", out=str(tmp_path / "out" / name))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
        assert not list((tmp_path / "out").iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        with pytest.raises(IdxflowError, match="no room to write"):
            ask(model, tmp_path / "images", log=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert served_files("mnist") == []
