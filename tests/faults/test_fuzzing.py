"""The readers of foreign bytes, fuzzed: the right answer or one of our errors, and nothing else.

Nothing else means: no other exception, no hang, and no more memory than a bound. Most examples are
sound files that are cut, spliced and overwritten, also below a gzip; and where a checksum would end
an example at once, in a tar's headers, it is made to fit again.

A longer round: FUZZ_EXAMPLES=50000 pytest -m exhaustive tests/faults/test_fuzzing.py
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import os
import pickle
import re
import signal
import struct
import tarfile
import tempfile
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline_config.datasets import FILES, RawFile
from tasks.raw.folder import folder_dataset
from tasks.raw.idx import DTYPES, read_idx
from tasks.raw.receive import receive
from tasks.raw.sources import obtain, package_files
from tasks.raw.tables import read_csv, read_npz
from tasks.runtime.errors import IdxflowError

# Of a header that is no Python, and of two members with one name.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{category}")
    for category in ("UserWarning", "SyntaxWarning", "DeprecationWarning")
]

T = TypeVar("T")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An IDXFLOW_ROOT without the laboratory."""
    monkeypatch.setenv("IDXFLOW_ROOT", str(tmp_path / "root"))
    return tmp_path / "root"


QUICK = 50
LONG = int(os.environ.get("FUZZ_EXAMPLES", "1000"))
HANG_S = 60

MB = 1 << 20
# What a reader may hold at once: so much whatever it reads …
CONSTANT = 4 * MB
# … for CSV Arrow's blocks of text, and 3 KB for each of up to 65,537 columns …
CSV_CONSTANT = 256 * MB
# … and, for each byte of the input, so many: a list of cells or of members is Python objects.
FACTOR = 64
# Two arrays are what is asked for: deflate's ratio bounds each, and a copy may be half as large.
NPZ_FACTOR = 3 * 1032

# How often something was read, and how often refused.
OUTCOMES: Counter[str] = Counter()

# Python, NumPy and zlib report to tracemalloc, Arrow to its pool. Arrow's threads may free late, so
# no pool is ever dropped.
POOLS: list[pa.MemoryPool] = []


def held(limit: int, read: Callable[..., T], *given: object) -> T | None:
    """What `read` returns, None for an error of ours; fails for no end and for too much memory."""

    def give_up(*_: object) -> None:
        raise AssertionError("a hang")

    pool, usual = pa.proxy_memory_pool(pa.system_memory_pool()), pa.default_memory_pool()
    POOLS.append(pool)
    pa.set_memory_pool(pool)
    handler = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    tracemalloc.start()
    result = None
    try:
        result = read(*given)
    except IdxflowError as error:
        assert str(error).encode(), "an error that can be printed"
        OUTCOMES["refused"] += 1
    else:
        OUTCOMES["read"] += 1
    finally:
        most = tracemalloc.get_traced_memory()[1] + pool.max_memory()
        tracemalloc.stop()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        pa.set_memory_pool(usual)
    assert most <= limit, f"{most:,} bytes held, at most {limit:,} expected"
    return result


# Sound files, small and various


def idx(array: np.ndarray) -> bytes:
    codes = {dtype: code for code, dtype in DTYPES.items()}
    array = array.astype(array.dtype.newbyteorder(">"))
    header = struct.pack(f">4B{array.ndim}I", 0, 0, codes[array.dtype], array.ndim, *array.shape)
    return header + array.tobytes()


RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 4, 4), np.uint8)
LABELS = (np.arange(12) % 3).astype(np.uint8)
IDX = [idx(IMAGES), idx(LABELS), idx(np.ones((2, 3), np.float64)), idx(np.array(7, np.int16))]
# Zeros that pack to next to nothing, once as their header says and once behind its end.
BOMBS = [idx(np.zeros((60_000, 1, 1), np.uint8)), IDX[0] + bytes(60_000)]
GZIP = gzip.compress(IDX[0], mtime=0)
CANONICAL = dict(zip(FILES, (IDX[0], IDX[1], IDX[0], IDX[1]), strict=True))


def npy(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


NPY = [npy(IMAGES), npy(IMAGES.reshape(12, 16).astype(np.int64)), npy(np.asfortranarray(IMAGES))]
CSV = [
    b"label,a,b,c,d\n1,0,255,7,3\n2,1,2,3,4\n",
    b"\xef\xbb\xbf1,0,255,7,3\r\n2,1,2,3,4\r\n",
    b"0,1,2,3,4\n5,0,255,7,3\n",
    b'"label","a"\n"1","2"\n',
    "1,0,255,7,3\n".encode("utf-16"),
    b"1," * 5000 + b"1\n",
]

# Damage

ODD = (
    b"",
    *(bytes(size) for size in (1, 4, 512)),
    *(b"\xff" * size for size in (1, 4, 8, 12)),
    *(struct.pack(">I", size) for size in (1, 0xFFFF, 2**31 - 1, 2**31)),
    *(struct.pack("<Q", size) for size in (1, 2**32, 2**60, 2**63 - 1)),
    b"\x80" + bytes(7),
)


def mostly(usual: st.SearchStrategy[T], other: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """Nine times out of ten from `usual`."""
    return st.sampled_from(range(10)).flatmap(lambda place: usual if place else other)


def cut(draw: st.DrawFn, content: bytes, others: list[bytes]) -> bytes:
    """`content`, half of the time with places overwritten, cut out, or spliced from `others`."""
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 2, 3)))):
        start = draw(st.integers(0, len(content)))
        gone = draw(st.sampled_from((0, 1, 2, 4, 8, 100, len(content))))
        new = draw(st.one_of(st.sampled_from(ODD), st.binary(max_size=8), st.none()))
        if new is None:
            other = draw(st.sampled_from(others))
            first = draw(st.integers(0, len(other)))
            new = other[first : first + draw(st.integers(0, 200))]
        content = content[:start] + new + content[start + gone :]
    return content


@st.composite
def idx_files(draw: st.DrawFn) -> bytes:
    kind = draw(st.sampled_from(("any", "header", "cut", "cut", "cut")))
    if kind == "any":
        return draw(st.binary(max_size=300))
    if kind == "cut":
        return cut(draw, draw(st.sampled_from(IDX)), IDX)
    sizes = draw(st.lists(st.sampled_from((0, 1, 2, 255, 2**16, 2**31, 2**32 - 1)), max_size=70))
    code = draw(st.sampled_from((*DTYPES, 7)))
    header = struct.pack(f">4B{len(sizes)}I", 0, 0, code, len(sizes), *sizes)
    return header + draw(st.binary(max_size=300))


PACKERS: tuple[Callable[[bytes], bytes], ...] = (
    lambda content: content,
    *[lambda content: gzip.compress(content, mtime=0)] * 3,
    lambda content: gzip.compress(content[:50], mtime=0) + gzip.compress(content[50:], mtime=0),
    lambda content: gzip.compress(gzip.compress(content, mtime=0), mtime=0),
    lzma.compress,
    bz2.compress,
)


@st.composite
def downloads(draw: st.DrawFn) -> tuple[bytes, bool]:
    """What a web server may send, and whether we know what it should be."""
    content = draw(st.one_of(idx_files(), st.just(IDX[0]), st.sampled_from(BOMBS)))
    packed = draw(st.sampled_from(PACKERS))(content)
    return cut(draw, packed, [IDX[0]]), draw(st.booleans())


NUMBERS = (
    *(b"00000000010", b"77777777777", b"           ", b"-0000001000", b"\xff" * 12),
    *(b"\x80" + bytes(3) + struct.pack(">Q", 2**60), b"\xff" * 10 + b"\xfe\0"),
)
TYPES = tuple(bytes([code]) for code in b"\0001234567DKLSxgX")
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
PAX = (
    *({"path": "package/data/other"}, {"size": "-1"}, {"size": str(2**70)}),
    {"GNU.sparse.map": "0,1,x", "GNU.sparse.size": "9" * 5000},
    {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "comment": "é" * 300},
)


def saying(size: bytes, header: bytes) -> bytes:
    """A tar's header with another size, and its checksum made to fit."""
    changed = bytearray(header)
    changed[-388:-376], changed[-364:-356] = size.ljust(12, b"\0"), b" " * 8
    changed[-364:-356] = b"%06o\0 " % sum(changed[-512:])
    return bytes(changed)


@st.composite
def tars(draw: st.DrawFn) -> bytes:
    """An npm package: a tar whose headers' checksums are right, whatever else is not."""
    blocks = []
    names = st.lists(st.sampled_from((*FILES, "a" * 150, "../../x")), max_size=6)
    for name in draw(mostly(st.just(FILES), names)):
        content = draw(st.sampled_from((*[CANONICAL.get(name, b"x")] * 9, GZIP)))
        member = tarfile.TarInfo(f"package/data/{name}{draw(st.sampled_from(('', '.gz')))}")
        member.type = draw(mostly(st.just(b"0"), st.sampled_from(TYPES)))
        member.pax_headers = draw(mostly(st.just({}), st.sampled_from(PAX)))
        member.size = len(content)
        with suppress(ValueError):  # a name that is too long for a USTAR
            header = member.tobuf(draw(st.sampled_from(FORMATS)))
            size = draw(mostly(st.none(), st.sampled_from(NUMBERS) | st.binary(max_size=12)))
            blocks += [header if size is None else saying(size, header)]
            blocks += [content, bytes(-len(content) % 512)]
    tar = cut(draw, b"".join(blocks) + bytes(1024), [IDX[0]])
    return cut(draw, draw(st.sampled_from(PACKERS))(tar), [IDX[0]])


MEMBERS = (*FILES, *(f"MNIST/raw/{name}.gz" for name in FILES), "../../x", "/etc/x", "é\0x")
ARRAYS = ("x_train.npy", "y_train.npy", "x_test.npy", "y_test.npy")
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def zipped(draw: st.DrawFn, members: list[tuple[str, bytes]]) -> bytes:
    """An archive, perhaps packed as nobody packs one, with links in it, and damage."""
    file = io.BytesIO()
    method = draw(st.sampled_from((*METHODS[:2] * 4, *METHODS)))
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members:
            member = zipfile.ZipInfo(name)
            member.compress_type = method
            member.external_attr = draw(st.sampled_from((0o100644, 0o120777))) << 16
            archive.writestr(member, content)
    return cut(draw, file.getvalue(), [file.getvalue()])


@st.composite
def zips(draw: st.DrawFn) -> bytes:
    names = draw(mostly(st.just(FILES), st.lists(st.sampled_from(MEMBERS), max_size=8)))
    members = [(name, CANONICAL.get(name, GZIP)) for name in names]
    more = st.tuples(st.sampled_from(MEMBERS), st.sampled_from((*BOMBS, IDX[1], GZIP, b"x")))
    return zipped(draw, [*members, *draw(st.lists(more, max_size=1))])


DESCRS = ("'|u1'", "'<i8'", "'>u2'", "'|O'", "'V9'", "('|u1', (2,))", "[('a', '|u1')]", "{[]: 1}")
SHAPES = (
    *(
        "(12,4,4)",
        "(12,16)",
        "(12,)",
        "(12,1)",
        "()",
        "(12,0)",
        "(-1,4,4)",
        "(-4,-48)",
        "(12,4,4L)",
    ),
    *(f"({2**60},)", f"(0,{2**70})", f"(0,{2**62},9)", f"({'1,' * 80})", "9" * 5000, "(True,12)"),
    *("(" * 150 + ")" * 150, "-" * 900 + "1", "1:\n 2", "'x'", "1j"),
)


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """An NPY file whose header says what it likes."""
    order = draw(st.sampled_from(("True", "False", "None")))
    descr, shape = draw(st.sampled_from(DESCRS)), draw(st.sampled_from(SHAPES))
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    text = cut(draw, text, [text])
    length = draw(st.sampled_from((len(text), len(text), len(text), 0, 0xFFFF)))
    version = draw(st.sampled_from((b"\1\0", b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\x09\xff")))
    size = struct.pack("<H" if version == b"\1\0" else "<I", length)
    content = draw(st.sampled_from((IMAGES.tobytes(), LABELS.tobytes(), pickle.dumps(print), b"")))
    return b"\x93NUMPY" + version + size + text + content


@st.composite
def npzs(draw: st.DrawFn) -> bytes:
    members = {name: NPY[0] if name.startswith("x") else npy(LABELS) for name in ARRAYS}
    members["x_train.npy"] = draw(st.sampled_from((*NPY, npy(np.zeros((6000, 4, 4), np.uint8)))))
    for name in draw(st.lists(st.sampled_from(ARRAYS), max_size=2)):
        members[name] = draw(st.one_of(headers(), st.sampled_from(NPY)))
    content = zipped(draw, list(members.items()))
    # A file may be a zip by its end and something else by its beginning.
    return draw(st.sampled_from((b"", b"", b"", NPY[0], pickle.dumps(print)))) + content


CELLS = ("", " 1", "+1", "-1", "256", "1.5", "1e2", "0x1F", "007", "9" * 5000, "٣", "x", "\0", "é")
QUOTED = ('"5"', '"', '""', '"1"2', '"1,2"', "'1'")


@st.composite
def csvs(draw: st.DrawFn) -> bytes:
    if draw(st.booleans()):
        return cut(draw, draw(st.sampled_from(CSV)), CSV)
    numbers = st.integers(0, 255).map(str)
    cells = mostly(numbers, numbers | st.sampled_from((*CELLS, *QUOTED)))
    width = draw(st.sampled_from((5, 5, 5, 2, 1, 10, 4)))
    rows = draw(st.lists(st.lists(cells, min_size=width, max_size=width), max_size=6))
    heads = ([], ["label", *"abcdefghi"], list("0123456789"), ["label", *"123456789"])
    rows = [draw(st.sampled_from(heads))[:width], *rows]
    newline = draw(st.sampled_from(("\n", "\r\n", "\r", "\n\n")))
    comma = draw(st.sampled_from(",,,;"))
    text = newline.join(comma.join(row) for row in rows) + draw(st.sampled_from((newline, "")))
    return text.encode(draw(st.sampled_from(("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-7"))))


NAMES = (
    *(name.encode() for name in FILES),
    *b"Test_Images.idx3-ubyte.gz train.csv x_test.csv train.csv.gz a.npz b.zip .npz -rf".split(),
    *("ä.npz".encode(), b"\xff.npz", b"\xff\xfe", b"a\n.zip"),
)
THINGS = ("folder", "link to itself", "link to nothing", "pipe")


@st.composite
def folders(draw: st.DrawFn) -> list[tuple[bytes, bytes | str]]:
    """Names and what is under them: mostly the four files, and one thing too many."""
    sound = [(name.encode(), content) for name, content in CANONICAL.items()]
    contents = st.one_of(idx_files(), st.sampled_from(THINGS), csvs(), zips(), npzs())
    more = draw(st.lists(st.tuples(st.sampled_from(NAMES), contents), max_size=4))
    return [*sound[: draw(st.sampled_from((4, 4, 4, 3, 0)))], *more]


# The readers: what they may hold, and when they are right


def read_one(content: bytes, folder: Path) -> None:
    path = folder / "a"
    path.write_bytes(content)
    array = held(CONSTANT, read_idx, path)
    if array is not None:
        offset = 4 + 4 * content[3]
        assert array.dtype == DTYPES[content[2]]
        assert array.shape == struct.unpack(f">{content[3]}I", content[4:offset])
        assert array.tobytes() == content[offset:]


def take_one(given: tuple[bytes, bool], folder: Path) -> None:
    content, known = given
    expected, target = RawFile(num_bytes=len(IDX[0]) if known else None), folder / "a"
    (folder / "packed").write_bytes(content)
    received = held(CONSTANT, receive, folder / "packed", "name", expected, target)
    if received is not None:
        raw = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        assert target.read_bytes() == raw
        assert read_idx(target) is not None
        assert not known or len(raw) == len(IDX[0])


def unpack_npm(content: bytes, folder: Path) -> None:
    def pack(command: object, scratch: Path) -> None:
        (scratch / "a.tgz").write_bytes(content)

    def take() -> None:
        wanted = dict.fromkeys(FILES, 1 << 20)
        for name, path, what in package_files("npm:a@1/package/data/", wanted, folder):
            receive(path, what, RawFile(), folder / f"received-{name}")
            read_idx(folder / f"received-{name}")

    with mock.patch("tasks.raw.sources._run", pack):
        held(CONSTANT, take)


def obtain_all(path: Path, scratch: Path) -> bool:
    obtain(folder_dataset(path), None, scratch)
    return all(read_idx(file).ndim < 65 for file in scratch.iterdir())


def unpack_zip(content: bytes, folder: Path) -> None:
    path, target = folder / "a.zip", folder / "target"
    path.write_bytes(content)
    target.mkdir()
    if held(CONSTANT + FACTOR * len(content), obtain_all, path, target):
        assert sorted(file.name for file in target.iterdir()) == sorted(FILES)


def unpack_npz(content: bytes, folder: Path) -> None:
    path = folder / "a.npz"
    path.write_bytes(content)
    pair = held(CONSTANT + NPZ_FACTOR * len(content), read_npz, path, "train")
    for name, array in zip(ARRAYS, pair or (), strict=False):
        with zipfile.ZipFile(path) as archive:
            there = np.lib.format.read_array(io.BytesIO(archive.read(name)))
        assert array.dtype == np.uint8
        assert array.shape[0] == there.shape[0]
        assert np.array_equal(array.ravel(), there.ravel())


def parse_csv(content: bytes, folder: Path) -> None:
    path = folder / "a.csv"
    path.write_bytes(content)
    pair = held(CSV_CONSTANT + FACTOR * len(content), read_csv, path)
    if pair is not None:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            rows = [next(csv.reader([line]), []) for line in file]
        rows = [[cell.strip() for cell in row] for row in rows if row]
        if not rows[0][0].isdigit() or rows[0] == [str(number) for number in range(len(rows[0]))]:
            del rows[0]
        images, labels = pair
        by_hand = np.array([[whole_number(cell) for cell in row] for row in rows])
        assert np.array_equal(labels, by_hand[:, 0])
        assert np.array_equal(images.reshape(len(images), -1), by_hand[:, 1:])
        assert images.shape[1] == images.shape[2]


def whole_number(cell: str) -> int:
    """What Arrow takes for a whole number; hexadecimal ones among them, where 0x says so."""
    return int(cell, 16) if cell.lower().startswith("0x") else int(cell)


def survey_folder(entries: list[tuple[bytes, bytes | str]], folder: Path) -> None:
    place, target = folder / "place", folder / "target"
    place.mkdir()
    target.mkdir()
    for name, thing in dict(entries).items():
        path = place / os.fsdecode(name)
        if isinstance(thing, bytes):
            path.write_bytes(thing)
        elif thing == "folder":
            path.mkdir()
        elif thing == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(path if thing == "link to itself" else "nowhere")
    num_bytes = sum(len(thing) for _, thing in entries if isinstance(thing, bytes))
    if held(CSV_CONSTANT + NPZ_FACTOR * num_bytes, obtain_all, place, target):
        assert sorted(file.name for file in target.iterdir()) == sorted(FILES)


READERS = {
    "idx": (idx_files(), read_one),
    "gzip": (downloads(), take_one),
    "tar": (tars(), unpack_npm),
    "zip": (zips(), unpack_zip),
    "npz": (npzs(), unpack_npz),
    "csv": (csvs(), parse_csv),
    "folder": (folders(), survey_folder),
}


def fuzz(reader: str, examples: int, derandomize: bool) -> None:
    strategy, check = READERS[reader]

    @settings(
        max_examples=examples,
        derandomize=derandomize,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(content: object) -> None:
        with tempfile.TemporaryDirectory() as folder:
            check(content, Path(folder))

    OUTCOMES.clear()
    each()
    print(reader, dict(OUTCOMES))
    assert set(OUTCOMES) == {"read", "refused"}


def zip_of(method: int, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def lzma_zip() -> bytes:
    """The four files, packed by LZMA, and its five bytes of settings asking for 4 GB."""
    content = zip_of(zipfile.ZIP_LZMA, **CANONICAL)
    return re.sub(rb"(?<=\x05\0\x5d)....", b"\xff" * 4, content, flags=re.DOTALL)


def npz_of(member: bytes) -> bytes:
    return zip_of(zipfile.ZIP_DEFLATED, **{"x_train.npy": member})


def npy_of(shape: str, order: bool = False) -> bytes:
    text = f"{{'descr': '|u1', 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


def tar_of(size: bytes, kind: bytes = b"0") -> bytes:
    """A tar with an empty member and one of so many bytes, by its header."""
    member = tarfile.TarInfo("x")
    first, member.type = member.tobuf(), kind
    return first + saying(size, member.tobuf()) + bytes(1024)


# What the readers did before they were fuzzed, above each.
FOUND = {
    # Went back by the negative size to the same header, for ever.
    "a tar of negative size": ("tar", tar_of(b"\xff" * 10 + b"\xfe\x00")),
    # Made room for the 8 GB that a name is said to have.
    "a tar with a huge name": ("tar", tar_of(b"\x80" + bytes(6) + b"\2" + bytes(4), b"L")),
    # Made room for the dictionary that the packer asks for.
    "a tar with LZMA": ("tar", lzma.compress(tar_of(b"1"))),
    "a zip with LZMA": ("zip", lzma_zip()),
    # IndexError, UnicodeDecodeError.
    "a zip whose member has no name": ("zip", zip_of(0, x=b"").replace(b"x", b"\0")),
    "a zip of no letters": ("zip", zip_of(0, ä=b"").replace("ä".encode(), b"\xff\xff")),
    # MemoryError: NumPy took it for an NPY file by its beginning, we for a zip by its end.
    "an npz that is two files": ("npz", npy_of(f"({2**50},)") + npz_of(NPY[0])),
    # OverflowError.
    "an npz of a huge empty array": ("npz", npz_of(npy_of(f"(0, {2**70})"))),
    # TypeError, because True is a whole number to NumPy.
    "an npz of a true shape": ("npz", npz_of(npy_of("(True, 12)", order=True) + bytes(12))),
    # TokenError, MemoryError, TypeError: NumPy hands the header to Python's parser.
    "an npz whose header does not end": ("npz", npz_of(npy_of("(1, "))),
    "an npz whose header is too deep": ("npz", npz_of(npy_of("-" * 9000 + "1"))),
    "an npz whose header has no key": ("npz", npz_of(npy_of("(1,), {}: 1"))),
    # csv.Error, twice.
    "a csv of an old Mac": ("csv", b"1,0,0,0,0\r2,0,0,0,9\r"),
    "a csv with an endless cell": ("csv", b'"' + b"1" * 200_000),
    # ValueError.
    "a csv with an endless number": ("csv", b"1,0,0,0,0\n1,0,0,0," + b"9" * 5000 + b"\n"),
    # Must not be read as if the quote ended with its line.
    "a csv with a quote that does not end": ("csv", b'"la\n"1","2"\n'),
    # Took minutes and gigabytes, in vain.
    "a csv that is too wide": ("csv", b"1," * MB + b"1\n"),
    # UnicodeEncodeError.
    "a folder with a name of no letters": ("folder", [(b"\xff.npz", b"")]),
}


@pytest.mark.parametrize("fault", FOUND)
def test_what_fuzzing_found(tmp_path, fault):
    reader, content = FOUND[fault]
    READERS[reader][1](content, tmp_path)


def test_a_bomb_takes_no_more_memory_than_others(tmp_path):
    """8 MB of zeros in 8 KB, and no reader holds them but that of NPZ, which returns them."""
    zeros = np.zeros((8 * MB, 1, 1), np.uint8)
    member = tarfile.TarInfo(f"package/data/{FILES[0]}")
    member.size = len(idx(zeros))
    bombs = {
        "gzip": (gzip.compress(idx(zeros)), False),
        "tar": gzip.compress(member.tobuf() + idx(zeros) + bytes(2000)),
        "zip": zip_of(zipfile.ZIP_DEFLATED, **dict.fromkeys(FILES, idx(zeros))),
        "npz": npz_of(npy(zeros.astype(np.int16))),
    }
    for reader, content in bombs.items():
        folder = tmp_path / reader
        folder.mkdir()
        READERS[reader][1](content, folder)


@pytest.mark.parametrize("reader", READERS)
def test_every_file_is_read_rightly_or_refused(reader):
    fuzz(reader, QUICK, derandomize=True)


@pytest.mark.exhaustive
@pytest.mark.parametrize("reader", READERS)
def test_every_file_is_read_rightly_or_refused_at_length(reader):
    fuzz(reader, LONG, derandomize=False)
