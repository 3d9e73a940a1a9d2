"""Reading IDX and CSV: ours beside idx2numpy, python-mnist and a tutorial's csv loop, in turn.

pip install -e '.[benchmarks]'
python benchmarks/reading.py FOLDER_WITH_RAW_MNIST [ROUNDS]
"""

from __future__ import annotations

import csv
import struct
import sys
import tempfile
from pathlib import Path

import idx2numpy
import mnist
import numpy as np
from side_by_side import in_turn, print_ratios

from tasks.raw.idx import read_idx, write_idx
from tasks.raw.tables import read_csv


def csv_to_idx(table: Path, images: Path, labels: Path) -> None:
    """As tutorials do it: a row at a time into lists, one array of it all, the header by hand."""
    rows, classes = [], []
    with table.open() as file:
        for row in csv.reader(file):
            classes.append(int(row[0]))
            rows.append(np.asarray(row[1:], dtype=np.uint8))
    pixels = np.asarray(rows)
    images.write_bytes(struct.pack(">IIII", 2051, len(pixels), 28, 28) + pixels.tobytes())
    classes_N = np.asarray(classes, dtype=np.uint8)
    labels.write_bytes(struct.pack(">II", 2049, len(classes)) + classes_N.tobytes())


def our_csv_to_idx(table: Path, images: Path, labels: Path) -> None:
    """The same with the reader and the writer of `tasks/raw`, checks and fsync included."""
    images_NHW, labels_N = read_csv(table)
    write_idx(images, images_NHW)
    write_idx(labels, labels_N)


def main(folder: Path, rounds: int) -> None:
    """Check that all give the same, then time them."""
    images = folder / "train-images-idx3-ubyte"
    ours = read_idx(images)
    assert np.array_equal(ours, idx2numpy.convert_from_file(str(images)))
    opened = mnist.MNIST(str(folder), return_type="numpy")
    assert np.array_equal(ours.reshape(-1, 784), opened.load_training()[0])
    # A mapped file is read when it is used: so a use of all pixels belongs to it.
    for use, name in ((np.max, "looked at"), (np.array, "copied")):
        works = {
            "ours": lambda use=use: use(read_idx(images)),
            "idx2numpy": lambda use=use: use(idx2numpy.convert_from_file(str(images))),
            "python-mnist": lambda use=use: use(opened.load_training()[0]),
        }
        print_ratios(f"{images.name}, all pixels {name}", in_turn(works, rounds))

    labels = read_idx(folder / "train-labels-idx1-ubyte")
    with tempfile.TemporaryDirectory() as scratch:
        table, mine, other = (Path(scratch) / name for name in ("table.csv", "mine", "other"))
        rows = np.column_stack([labels, ours.reshape(len(ours), -1)])
        np.savetxt(table, rows, fmt="%d", delimiter=",")
        label_files = [path.with_suffix(".labels") for path in (mine, other)]
        seconds = in_turn(
            {
                "ours": lambda: our_csv_to_idx(table, mine, label_files[0]),
                "csv + np.asarray": lambda: csv_to_idx(table, other, label_files[1]),
            },
            max(2, rounds // 3),
        )
        assert mine.read_bytes() == other.read_bytes() == images.read_bytes()
        assert label_files[0].read_bytes() == label_files[1].read_bytes()
    print_ratios("60,000 rows of CSV to IDX", seconds)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 9)
