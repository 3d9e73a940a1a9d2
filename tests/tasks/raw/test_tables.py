"""Tests of CSV and NPZ files: the IDX files made from them, and their faults."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest

from pipeline_config.datasets import FILES
from tasks.raw.sources import obtain
from tasks.raw.tables import read_csv, read_npz
from tasks.runtime.errors import RawDataError


def write_csv(path, images, labels, header: str, newline: str = "\n") -> None:
    rows = np.column_stack([labels, images.reshape(len(images), -1)])
    pixels = range(rows.shape[1] - 1)
    headers = {
        "none": [],
        "words": [",".join(["label", *(f"pixel{i}" for i in pixels)])],
        "label": [",".join(["label", *map(str, pixels)])],
        "pandas": [",".join(map(str, range(rows.shape[1])))],
        "index": [",".join(["", *map(str, pixels)])],
        "kaggle": [",".join(["label", *(f"{i // 4 + 1}x{i % 4 + 1}" for i in pixels)])],
        "from 1": ['"class", ' + ", ".join(str(i + 1) for i in pixels)],
    }
    lines = [*headers[header], *(",".join(map(str, row)) for row in rows)]
    path.write_bytes(newline.join([*lines, ""]).encode())


def keywords(arrays) -> dict[str, np.ndarray]:
    return dict(zip(("x_train", "y_train", "x_test", "y_test"), arrays.values(), strict=True))


def bytes_of(folder, dataset) -> dict[str, bytes]:
    obtain(dataset, None, folder)
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.parametrize(
    "header", ["none", "words", "label", "pandas", "index", "kaggle", "from 1"]
)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_csv_gives_the_same_idx_files(tmp_path, target, arrays, raw, header, newline):
    from tasks.raw.folder import folder_dataset

    images = list(arrays.values())
    write_csv(tmp_path / "mnist_train.csv", images[0], images[1], header, newline)
    write_csv(tmp_path / "mnist_test.csv", images[2], images[3], header, newline)
    found = bytes_of(target, folder_dataset(tmp_path))
    assert found == {name: (raw / name).read_bytes() for name in FILES}


@pytest.mark.parametrize("variant", ["plain", "compressed", "int64", "channel", "flat", "fortran"])
def test_npz_gives_the_same_idx_files(tmp_path, target, arrays, raw, variant):
    from tasks.raw.folder import folder_dataset

    named = keywords(arrays)
    for name, array in named.items():
        if variant == "int64":
            named[name] = array.astype(np.int64)
        elif variant == "fortran":
            named[name] = np.asfortranarray(array)
        elif variant == "channel":
            named[name] = array[..., None]
        elif variant == "flat":
            named[name] = array.reshape(len(array), -1)
    save = np.savez_compressed if variant == "compressed" else np.savez
    save(tmp_path / "any.npz", **named)
    found = bytes_of(target, folder_dataset(tmp_path))
    assert found == {name: (raw / name).read_bytes() for name in FILES}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1,0,0,0,0\n2,0,0,x,0\n", "row 2: 'x', column 4"),
        ("1,0,x,0,0\n2,0,0,0,0\n", "row 1: 'x', column 3"),
        ("label,a,b,c,d\n1,0,0,0,256\n", "row 2: '256', column 5"),
        ("1,0,0,0,0\n2,0,0,-1,0\n", "row 2: '-1', column 4"),
        ("1,0,0,0,0\n1,0,0.5,0,0\n", "row 2: '0.5', column 3"),
        ("1,0,0,0,0\n1,,0,0,0\n", "row 2: '', column 2"),
        ("1,0,0,0,0\n1,0,0,0,0\n1,0,0\n", "row 3: the number of columns changed from 5 to 3"),
        ("1,0,0,0\n", "3 pixels a row, which is not a square number"),
        ("label,a,b,c,d\n", "no rows below the header"),
        ("", "0 pixels a row"),
        ("<html>\n", "0 pixels a row"),
    ],
)
def test_each_fault_in_a_csv_file_names_its_row(tmp_path, content, words):
    path = tmp_path / "mnist_train.csv"
    path.write_text(content)
    with pytest.raises(RawDataError) as caught:
        read_csv(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


NO_LABELS = ("-1", "1.0", "1e0", "NaN", "inf", "", "NA", "x", "0x10", "1_0", "١", "²", "-")


@pytest.mark.parametrize("label", NO_LABELS)
def test_a_first_row_with_a_bad_label_is_not_a_header(tmp_path, label):
    path = tmp_path / "train.csv"
    path.write_text(f"{label},7,0,0,0\n2,0,0,0,0\n", encoding="utf-8")
    with pytest.raises(RawDataError) as caught:
        read_csv(path)
    assert f"row 1: {label!r}, column 1" in str(caught.value)


@pytest.mark.parametrize("cell", ["0x10", "0X1f", " 0x1 ", '"0x1"'])
@pytest.mark.parametrize("column", [1, 4])
@pytest.mark.parametrize("header", ["", "label,x0,x1,x2,x3\n"])
@pytest.mark.parametrize("newline", ["\n", "\r"])
def test_hexadecimal_numbers_are_refused(tmp_path, cell, column, header, newline):
    rows = [["1", "0", "0", "0", "0"] for _ in range(3)]
    rows[2][column - 1] = cell
    content = header + "".join(",".join(row) + "\n" for row in rows)
    (tmp_path / "train.csv").write_bytes(content.replace("\n", newline).encode())
    row = 4 if header else 3
    with pytest.raises(RawDataError, match=f"row {row}: .*, column {column}, expected a label"):
        read_csv(tmp_path / "train.csv")


def test_spaces_quotes_and_leading_zeros_do_not_change_a_number(tmp_path):
    (tmp_path / "train.csv").write_text(' 1,"7", 007 ,0,\t255\n')
    images, labels = read_csv(tmp_path / "train.csv")
    assert labels.tolist() == [1]
    assert images.tolist() == [[[7, 7], [0, 255]]]


def test_a_csv_file_with_bytes_that_are_not_text_is_refused(tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(b"1,0,0,0,0\n" + bytes(range(256)))
    with pytest.raises(RawDataError):
        read_csv(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_train": np.zeros((20, 4, 4), np.float32)}, "an array of float32, expected integers"),
        ({"x_train": np.full((20, 4, 4), 256)}, "values from 256 to 256"),
        ({"y_train": np.full(20, -1)}, "values from -1 to -1"),
        ({"x_train": np.zeros((20, 4, 4, 3), np.uint8)}, "expected (N, H, W) and (N,)"),
        ({"y_train": np.zeros((20, 10), np.uint8)}, "expected (N, H, W) and (N,)"),
        ({"x_train": np.zeros((20, 5), np.uint8)}, "5 pixels a row"),
        ({"y_train": np.array([{}] * 20)}, "an OBJECT array"),
    ],
)
def test_each_fault_in_an_npz_file_has_its_own_message(tmp_path, arrays, changes, words):
    np.savez(tmp_path / "a.npz", **{**keywords(arrays), **changes})
    with pytest.raises(RawDataError) as caught:
        read_npz(tmp_path / "a.npz", "train")
    assert words in str(caught.value)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_npz_file_with_an_array_twice_is_refused(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **keywords(arrays))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("y_train.npy", archive.read("y_test.npy"))
    with pytest.raises(RawDataError, match=r"y_train.npy is in it twice"):
        read_npz(tmp_path / "a.npz", "train")


def npy(shape, content: bytes, descr: str = "|u1") -> bytes:
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + content


@pytest.mark.parametrize(
    "member",
    [
        npy((2**40,), bytes(10)),
        npy((2, 2), b"x"),
        npy((2,), pickle.dumps(print), "|O"),
        npy((2,), bytes(2))[:20],
        b"\x93NUMPY\x09\x00" + struct.pack("<H", 4) + b"rest",
        b"",
        b"nothing of the kind",
    ],
)
def test_a_malformed_npy_header_is_refused(tmp_path, member):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in ("x_train", "y_train"):
            archive.writestr(f"{name}.npy", member)
    with pytest.raises(RawDataError, match="x_train"):
        read_npz(tmp_path / "a.npz", "train")
