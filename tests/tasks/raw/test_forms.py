"""The same rows in every form give the same parts; what is hostile or incomplete is one error."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline_config.datasets import DESCRIPTION, FILES, named_dataset
from pipeline_config.sections import ConfigError
from pipeline_config.settings import settings
from tasks.raw import forms
from tasks.raw.create import create_dataset, set_aside
from tasks.raw.forms import read_parts
from tasks.raw.idx import read_splits, write_idx
from tasks.raw.sources import obtain
from tasks.runtime.errors import RawDataError

NAMES = ("a", "b", "c")
Rows = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def rows() -> Rows:
    """60 images of 6×5 pixels, sorted by class, as a folder for each class has them."""
    chance = np.random.default_rng(0)
    return chance.integers(0, 256, (60, 6, 5)).astype(np.uint8), np.repeat(np.arange(3), 20)


def png(image: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def write_pair(folder: Path, rows: Rows, prefix: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_idx(folder / f"{prefix}images-idx3-ubyte", np.ascontiguousarray(rows[0]))
    write_idx(folder / f"{prefix}labels-idx1-ubyte", rows[1].astype(np.uint8))


def write_npz(folder: Path, rows: Rows) -> None:
    np.savez(folder / "rows.npz", x=rows[0], y=rows[1])


def write_pictures(folder: Path, rows: Rows) -> None:
    for number, (image, label) in enumerate(zip(*rows, strict=True)):
        (folder / NAMES[label]).mkdir(parents=True, exist_ok=True)
        (folder / NAMES[label] / f"{number:03}.png").write_bytes(png(image))


def write_parquet(folder: Path, rows: Rows) -> None:
    features = {"label": {"names": list(NAMES), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    images = [{"bytes": png(image), "path": None} for image in rows[0]]
    table = pa.table({"image": images, "label": rows[1]}).replace_schema_metadata(metadata)
    pq.write_table(table, folder / "data-00000-of-00001.parquet")


def write_gzip(folder: Path, rows: Rows) -> None:
    write_pair(folder, rows)
    for file in list(folder.iterdir()):
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()


def write_emnist(folder: Path, rows: Rows) -> None:
    """Transposed, with labels from 1 and a mapping."""
    write_pair(folder, (rows[0].swapaxes(1, 2), rows[1] + 1), "emnist-letters-")
    lines = (f"{label + 1} {ord(name.upper())} {ord(name)}" for label, name in enumerate("abc"))
    (folder / "emnist-letters-mapping.txt").write_text("\n".join(lines))


FORMS: list[Callable[[Path, Rows], None]] = [
    write_pair,
    write_gzip,
    write_npz,
    write_pictures,
    write_parquet,
    write_emnist,
]


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, Path(folder.name, file.relative_to(folder)))
    return path


@pytest.mark.parametrize("write", FORMS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("as_zip", [False, True], ids=["folder", "zip"])
def test_every_form_gives_the_same_rows(write, as_zip, rows, tmp_path) -> None:
    folder, scratch = tmp_path / "given", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    write(folder, rows)
    ((split, part),) = read_parts(zipped(folder) if as_zip else folder, scratch).items()
    assert split == "all"
    assert np.array_equal(part.images_NHW, rows[0])
    assert np.array_equal(part.labels_N, rows[1])
    names = {"write_pictures": NAMES, "write_parquet": NAMES, "write_emnist": ("A", "B", "C")}
    assert part.class_names == names.get(write.__name__)


def test_splits_are_found_by_their_names(rows, tmp_path) -> None:
    for folder, write in {"pictures": write_pictures, "idx": write_pair}.items():
        for split in ("train", "test"):
            if write is write_pair:
                write_pair(tmp_path / folder, rows, f"emnist-{split}-")
            else:
                write(tmp_path / folder / split, rows)
        (tmp_path / f"{folder}-scratch").mkdir()
        parts = read_parts(tmp_path / folder, tmp_path / f"{folder}-scratch")
        assert sorted(parts) == ["test", "train"]


def test_pictures_are_turned_to_grey_and_scaled_on_request(tmp_path) -> None:
    for name, side in (("a", 10), ("b", 20)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (side, side), (255, 0, 0)).save(tmp_path / name / "1.png")
    with pytest.raises(RawDataError, match="20×20 pixels"):
        read_parts(tmp_path, tmp_path)
    part = read_parts(tmp_path, tmp_path, (4, 6))["all"]
    assert part.images_NHW.shape == (2, 4, 6)
    assert set(part.images_NHW.ravel()) == {76}, "red is 0.299 of white"


def test_a_list_of_classes_names_labels_and_orders_folders(rows, tmp_path) -> None:
    write_pair(tmp_path / "idx", rows)
    (tmp_path / "idx" / "classes.txt").write_text("eins\nzwei\ndrei\n")
    assert read_parts(tmp_path / "idx", tmp_path)["all"].class_names == ("eins", "zwei", "drei")
    folder = tmp_path / "pictures"
    write_pictures(folder, rows)
    (folder / "classes.txt").write_text("c\na\nb\n")
    part = read_parts(folder, tmp_path)["all"]
    assert part.class_names == ("c", "a", "b")
    assert np.array_equal(part.labels_N, (rows[1] + 1) % 3), "the folder a is label 1 now"
    (folder / "classes.txt").write_text("x\ny\nz\n")
    with pytest.raises(RawDataError, match="the class 'a'"):
        read_parts(folder, tmp_path)


def test_folders_with_numbers_are_in_the_order_of_their_values(rows, tmp_path) -> None:
    for name in ("10", "2", "1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(png(rows[0][int(name)]))
    assert read_parts(tmp_path, tmp_path)["all"].class_names == ("1", "2", "10")


@pytest.mark.parametrize("wrong", [-1, 256, 3, None, 1.5, "a"], ids=str)
def test_labels_of_a_parquet_file_are_numbers_of_classes(wrong, rows, tmp_path) -> None:
    write_parquet(tmp_path, rows)
    (path,) = tmp_path.glob("*.parquet")
    table = pq.read_table(path)
    labels = pa.array([wrong, *[type(wrong)(1) if wrong else 1] * 59])
    pq.write_table(table.set_column(1, "label", labels), path)
    with pytest.raises(RawDataError, match="labels"):
        read_parts(path, tmp_path)


def test_every_kind_of_picture_is_grey_from_black_to_white(tmp_path) -> None:
    (tmp_path / "a").mkdir()
    deep = np.array([[0, 32768], [65535, 256]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "a" / "1.png")
    clear = Image.fromarray(np.array([[[9, 9, 9, 0], [9, 9, 9, 255]]] * 2, np.uint8))
    clear.save(tmp_path / "a" / "2.png")
    images = read_parts(tmp_path, tmp_path)["all"].images_NHW
    assert images.tolist() == [[[0, 128], [255, 1]], [[255, 9], [255, 9]]]
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "a" / "3.tif")
    with pytest.raises(RawDataError, match="fractions"):
        read_parts(tmp_path, tmp_path)
    (tmp_path / "a" / "3.tif").write_bytes(b"P5 2 2 255 abcd")
    with pytest.raises(RawDataError, match="damaged file"):
        read_parts(tmp_path, tmp_path)


def test_a_zip_of_a_single_class_is_pictures_of_that_class(rows, tmp_path) -> None:
    write_pictures(tmp_path / "given", (rows[0][:20], rows[1][:20]))
    archive = zipped(tmp_path / "given" / "a")
    part = read_parts(archive, tmp_path)["all"]
    assert (part.class_names, len(part.labels_N)) == (("a",), 20)
    with zipfile.ZipFile(archive, "a") as content:
        content.writestr("a/broken.png", b"junk")
    with pytest.raises(RawDataError, match=r"a\.zip/a/broken\.png"):
        read_parts(archive, tmp_path / "other")


def test_what_is_hostile_or_damaged_is_one_clear_error(rows, tmp_path, monkeypatch) -> None:
    def refused(path: Path, words: str) -> None:
        with pytest.raises(RawDataError, match=words):
            read_parts(path, tmp_path / "scratch")

    (tmp_path / "scratch").mkdir()
    with zipfile.ZipFile(tmp_path / "leaves.zip", "w") as archive:
        archive.writestr("../outside.png", png(rows[0][0]))
    refused(tmp_path / "leaves.zip", "leaves its folder")
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive, pytest.warns(match="Duplicate"):
        archive.writestr("a/1.png", png(rows[0][0]))
        archive.writestr("a/1.png", png(rows[0][1]))
    refused(tmp_path / "twice.zip", "twice")
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(4):
            archive.writestr(f"a/{number}.png", png(rows[0][number]))
    monkeypatch.setattr(forms, "MAX_MEMBERS", 3)
    refused(tmp_path / "many.zip", "more than 3 files")
    assert not (tmp_path / "outside.png").exists()
    (tmp_path / "junk.zip").write_bytes(b"PK\x03\x04 junk")
    refused(tmp_path / "junk.zip", "unreadable or damaged")
    folder = tmp_path / "pictures"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "1.png").write_bytes(png(rows[0][0])[:40])
    refused(folder, "1.png.*unreadable or damaged")
    (folder / "a" / "1.png").write_bytes(png(np.zeros((5000, 5000), np.uint8)))
    refused(folder, "5000×5000 pixels")
    short = tmp_path / "short"
    write_pair(short, (rows[0], rows[1][:-1]))
    refused(short, "60 images and 59 labels")
    (tmp_path / "table.parquet").write_bytes(b"PAR1 junk PAR1")
    refused(tmp_path / "table.parquet", "unreadable or damaged")
    pq.write_table(pa.table({"image": [1], "label": [1]}), tmp_path / "other.parquet")
    refused(tmp_path / "other.parquet", "unreadable or damaged")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no data")


def test_a_created_data_set_has_a_name_and_a_pinned_test_split(rows, tmp_path) -> None:
    write_pictures(tmp_path / "mine", rows)
    made = create_dataset("mine", tmp_path / "mine")
    assert named_dataset("mine") == made
    assert (made.class_names, made.image_shape, made.default_recipe) == (NAMES, (6, 5), "small")
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    facts = obtain(made, None, fetched)
    assert facts["sha256"] == {name: file.sha256 for name, file in made.files.items()}
    splits = read_splits(fetched, 3)
    assert [len(splits[split][1]) for split in ("train", "test")] == [51, 9]
    assert np.bincount(splits["test"][1]).tolist() == [3, 3, 3]
    assert create_dataset("mine", tmp_path / "mine") == made, "again from the same rows"
    write_pictures(tmp_path / "others", (rows[0][::-1].copy(), rows[1]))
    with pytest.raises(ConfigError, match="another data set of that name"):
        create_dataset("mine", tmp_path / "others")
    with pytest.raises(ConfigError, match="another data set of that name"):
        create_dataset("mnist", tmp_path / "mine")
    with pytest.raises(ConfigError, match="name"):
        create_dataset("No Name", tmp_path / "mine")
    assert [path.name for path in (settings().root / "data").iterdir()] == ["mine"]
    image = settings().root / "data" / "mine" / FILES[0]
    image.write_bytes(image.read_bytes()[:-1] + b"\0")
    with pytest.raises(Exception, match="SHA-256"):
        obtain(made, None, tmp_path / "fetched")


def test_training_rows_are_mixed_whatever_their_order_in_the_files(rows, tmp_path) -> None:
    write_pair(tmp_path / "sorted", rows)
    create_dataset("one", tmp_path / "sorted")
    order = np.random.default_rng(1).permutation(60)
    write_pair(tmp_path / "mixed", (rows[0][order], rows[1][order]))
    create_dataset("two", tmp_path / "mixed")
    one, two = (
        (settings().root / "data" / name / FILES[1]).read_bytes() for name in ("one", "two")
    )
    assert one == two
    assert len({*one[8:][-10:]}) == 3, "the last rows have every class"


def test_a_created_data_set_cannot_be_changed_unseen(rows, tmp_path) -> None:
    write_pictures(tmp_path / "mine", rows)
    made = create_dataset("mine", tmp_path / "mine", recipe="small")
    assert create_dataset("mine", tmp_path / "mine") == made
    for asked in ({"recipe": "fast"}, {"class_names": ("b", "a", "c")}):
        with pytest.raises(ConfigError, match="other classes or recipe"):
            create_dataset("mine", tmp_path / "mine", **asked)
    path = settings().root / "data" / "mine" / DESCRIPTION
    text = path.read_text()
    path.write_text(text.replace("- a\n", "- d\n"))
    with pytest.raises(ConfigError, match="not what"):
        named_dataset("mine")
    assert named_dataset("mnist").num_classes == 10, "the others can be used"
    path.write_text(text.replace("mine:", "mnist:", 1))
    assert "ossci" in named_dataset("mnist").sources[0]
    path.write_text(text.replace("default_recipe: small", "default_recipe: fast"))
    assert named_dataset("mine").default_recipe == "fast", "this is a person's choice"


def test_every_class_has_a_row_to_test_with(rows, tmp_path) -> None:
    kept = np.array([*range(20), 20, 21, *range(40, 60)])
    write_pair(tmp_path / "two", (rows[0][kept], rows[1][kept]))
    create_dataset("two", tmp_path / "two")
    labels = (settings().root / "data" / "two" / FILES[3]).read_bytes()[8:]
    assert {*labels} == {0, 1, 2}
    kept = np.delete(kept, 20)
    write_pair(tmp_path / "single", (rows[0][kept], rows[1][kept]))
    with pytest.raises(RawDataError, match="a single image of the class with label 1"):
        create_dataset("single", tmp_path / "single")


def test_copies_of_an_image_are_on_one_side(rows) -> None:
    images = np.concatenate([rows[0], rows[0]])
    is_test = set_aside(images, np.concatenate([rows[1], rows[1]]))
    assert np.array_equal(is_test[:60], is_test[60:])
    order = np.random.default_rng(0).permutation(60)
    assert np.array_equal(set_aside(rows[0][order], rows[1][order]), is_test[:60][order])


def test_labels_need_a_class_name(rows, tmp_path) -> None:
    write_pair(tmp_path / "rows", rows)
    with pytest.raises(RawDataError, match="a label 2 and 2 class names"):
        create_dataset("two", tmp_path / "rows", ("x", "y"))
    assert create_dataset("three", tmp_path / "rows").class_names == ("0", "1", "2")
