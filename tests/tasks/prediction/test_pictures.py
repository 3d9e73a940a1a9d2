"""Photos in MNIST's form, however they were taken; one clear error where nothing can be made."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from tasks.prediction.pictures import Form, centred, find_ink, read_picture
from tasks.raw import grey
from tasks.runtime.errors import RawDataError

MNIST = Form(28, 28, is_digits=True)
Draw = Callable[..., Image.Image]


def alike(first: np.ndarray, second: np.ndarray) -> float:
    """The cosine between two images, moved a pixel where that helps: a centre may be rounded."""
    moved = [np.roll(first, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    rows, second = np.stack(moved).reshape(9, -1).astype(float), second.astype(float).ravel()
    return float((rows @ second).max() / np.linalg.norm(rows[0]) / np.linalg.norm(second))


def saved(picture: Image.Image, path: Path, **how: object) -> Path:
    picture.save(path, **how)
    return path


def side_of(image_HW: np.ndarray) -> int:
    rows, columns = (np.flatnonzero(image_HW.any(axis=axis)) for axis in (1, 0))
    return int(max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1)


@settings(max_examples=25, deadline=None)
@given(
    digit=st.integers(0, 9),
    size=st.integers(90, 500),
    share=st.floats(0.3, 0.9),
    shift=st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    levels=st.sampled_from([(20, 230), (60, 140), (240, 10), (140, 60), (0, 255)]),
    slope=st.floats(-0.3, 0.3),
    noise=st.sampled_from([0, 8]),
)
def test_photos_of_a_digit_give_the_same_image(
    draw: Draw,
    digits: np.ndarray,
    digit: int,
    size: int,
    share: float,
    shift: tuple[float, float],
    levels: tuple[int, int],
    slope: float,
    noise: int,
) -> None:
    ink, paper = levels
    plain = np.asarray(draw(str(digit), size, share, ink, paper)).astype(float)
    room = (1 - share) / 2 * size * 0.8
    plain = ndimage.shift(plain, [room * way for way in shift], order=1, cval=paper)
    plain *= 1 + slope * np.linspace(-1, 1, size)
    plain += np.random.default_rng(0).normal(0, noise, plain.shape)
    photo = plain.clip(0, 255).astype(np.uint8)
    image = centred(find_ink(photo), MNIST)
    likeness = [alike(image, known) for known in digits]
    assert int(np.argmax(likeness)) == digit
    assert likeness[digit] > 0.88
    assert image.max() == 255
    assert side_of(image) in (19, 20)
    mass = np.array(ndimage.center_of_mass(image.astype(float)))
    assert np.all(abs(mass - 14) <= 0.51)


def test_an_image_in_mnists_form_is_used_as_it_is(digits: np.ndarray, tmp_path: Path) -> None:
    for digit, image in enumerate(digits):
        path = saved(Image.fromarray(image), tmp_path / f"{digit}.png")
        picture = read_picture(path, MNIST)
        assert np.array_equal(picture.images_KHW[0], image)
        assert picture.ink_hw is None


def test_an_image_in_colour_or_on_light_ground_is_recovered(
    digits: np.ndarray, tmp_path: Path
) -> None:
    for image in digits:
        for dressed in (Image.fromarray(image).convert("RGB"), Image.fromarray(255 - image)):
            picture = read_picture(saved(dressed, tmp_path / "it.png"), MNIST)
            assert picture.ink_hw is not None
            assert alike(picture.images_KHW[0], image) > 0.97


def test_exif_orientation_is_applied(draw: Draw, digits: np.ndarray, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = draw("4", 900).transpose(Image.Transpose.ROTATE_90)
    path = saved(turned, tmp_path / "turned.jpg", exif=exif, quality=90)
    assert alike(read_picture(path, MNIST).images_KHW[0], digits[4]) > 0.95


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_every_mode_of_a_picture_is_read(
    draw: Draw, digits: np.ndarray, tmp_path: Path, mode: str
) -> None:
    plain = draw("5")
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(plain).astype(np.uint16) * 257)
    else:
        picture = plain.convert(mode)
    path = saved(picture, tmp_path / ("it.jpg" if mode == "CMYK" else "it.png"))
    assert alike(read_picture(path, MNIST).images_KHW[0], digits[5]) > 0.95


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "I;16"])
def test_tiles_give_the_same_as_the_whole_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Turned by EXIF, and with a colour that stands for nothing."""
    chance = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    if mode == "I;16":
        picture = Image.fromarray(chance.integers(0, 65536, (317, 410), dtype=np.uint16))
    else:
        noise = Image.fromarray(chance.integers(0, 256, (317, 410, 4), dtype=np.uint8))
        picture = noise.convert(mode)
    clear = {} if "A" in mode else {"transparency": (1, 2, 3) if mode == "RGB" else 7}
    path = saved(picture, tmp_path / "it.png", exif=exif, **clear)
    whole = read_picture(path, Form(9, 9, is_digits=False)).grey_hw
    assert whole.shape == (256, 198)
    monkeypatch.setattr(grey, "TILE_PX", 50)
    assert np.array_equal(read_picture(path, Form(9, 9, is_digits=False)).grey_hw, whole)


MEASURED = """
import re, sys
from pathlib import Path
from tasks.prediction.pictures import Form, read_picture
from PIL import Image

def most():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

before = most()
read_picture(Path(sys.argv[1]), Form(28, 28, is_digits=False))
print(most() - before)
"""


@pytest.mark.parametrize(("mode", "bytes_a_pixel"), [("L", 1), ("I;16", 2), ("RGBA", 4)])
def test_a_large_picture_needs_little_more_memory_than_its_pixels(
    tmp_path: Path, mode: str, bytes_a_pixel: int
) -> None:
    side = 6000
    picture = Image.new(mode, (side, side))
    picture.paste(
        Image.new(
            mode,
            (side // 2, side // 2),
            (0, 0, 0, 255) if mode == "RGBA" else 255 if mode == "L" else 65535,
        )
    )
    path = saved(picture, tmp_path / "large.png", compress_level=1)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(path)], check=True, capture_output=True, text=True
    )
    assert int(done.stdout) < (bytes_a_pixel + 1) * side**2 / 2**20 + 60


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P"])
def test_a_transparent_ground_is_white(
    draw: Draw, digits: np.ndarray, tmp_path: Path, kind: str
) -> None:
    ink = Image.eval(draw("5", ink=0, paper=255), lambda level: 255 - level)
    clear = Image.merge("LA", (Image.new("L", ink.size, 0), ink))
    if kind == "P":
        clear = Image.merge("RGBA", (*[Image.new("L", ink.size, 0)] * 3, ink)).quantize(16)
    elif kind == "RGBA":
        clear = clear.convert("RGBA")
    path = saved(clear, tmp_path / "clear.png")
    assert alike(read_picture(path, MNIST).images_KHW[0], digits[5]) > 0.95


def test_dirt_and_a_shadow_are_not_ink(draw: Draw, digits: np.ndarray, tmp_path: Path) -> None:
    photo = np.asarray(draw("7", 400)).astype(float)
    generator = np.random.default_rng(1)
    for y, x in generator.integers(5, 390, (12, 2)):
        photo[y : y + 3, x : x + 3] = 30
    photo[:, :150] *= 0.6
    path = saved(Image.fromarray(photo.astype(np.uint8)), tmp_path / "dirt.png")
    assert alike(read_picture(path, MNIST).images_KHW[0], digits[7]) > 0.93


def test_only_mnists_size_has_a_margin(draw: Draw, tmp_path: Path) -> None:
    path = saved(draw("8"), tmp_path / "8.png")
    for side, longest in ((28, 20), (8, 8), (16, 16)):
        image = read_picture(path, Form(side, side, is_digits=True)).images_KHW[0]
        assert abs(side_of(image) - longest) <= 1
    assert read_picture(path, Form(28, 12, is_digits=True)).images_KHW[0].shape == (28, 12)


def test_other_pictures_are_fitted_as_a_whole(tmp_path: Path) -> None:
    shirt = np.full((300, 150), 250, np.uint8)
    shirt[30:270, 30:120] = 90
    path = saved(Image.fromarray(shirt), tmp_path / "shirt.png")
    picture = read_picture(path, Form(28, 28, is_digits=False))
    assert picture.ink_hw is None
    assert picture.images_KHW[0][14, 14] == 165
    assert not picture.images_KHW[0][:, :6].any()
    rows = np.flatnonzero(picture.images_KHW[0][:, 14] > 100)
    assert (rows[0], rows[-1]) == (3, 24)


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize(("side", "noise"), [(28, 0), (28, 3), (300, 0), (300, 3), (300, 12)])
def test_an_empty_sheet_is_refused(tmp_path: Path, level: int, noise: int, side: int) -> None:
    sheet = np.random.default_rng(0).normal(level, noise, (side, side)).clip(0, 255)
    path = saved(Image.fromarray(sheet.astype(np.uint8)).convert("RGB"), tmp_path / "empty.png")
    with pytest.raises(RawDataError, match=r"empty\.png: found .* nothing stands out"):
        read_picture(path, MNIST)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    kind=st.sampled_from(["noise", "step", "slope", "dot", "stripes"]),
    seed=st.integers(0, 99),
)
def test_any_picture_gives_an_image_or_no_ink(
    height: int, width: int, kind: str, seed: int
) -> None:
    y, x = np.indices((height, width))
    picture = {
        "noise": np.random.default_rng(seed).integers(0, 256, (height, width)),
        "step": 255 * (x + y > seed),
        "slope": 255 * (x + y) // (height + width),
        "dot": 255 * ((x == seed % width) & (y == seed % height)),
        "stripes": 255 * (x % (seed + 2) < 2),
    }[kind].astype(np.uint8)
    ink = find_ink(picture)
    assert (ink.shape, ink.dtype) == (picture.shape, np.uint8)
    for form in (MNIST, Form(5, 9, is_digits=True)):
        if ink.any():
            image = centred(ink, form)
            assert image.shape == (form.height, form.width)
            assert image.max() == 255


def test_a_picture_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(Image.new("1", (300, 300)), tmp_path / "bomb.png")
    for limit in (80_000, 40_000):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(RawDataError, match=r"bomb\.png: found .* exceeds limit of"):
            read_picture(path, MNIST)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG"]),
    flips=st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 255)), max_size=4),
    end=st.floats(0, 1),
)
def test_a_damaged_picture_is_an_error_that_names_the_file(
    draw: Draw,
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    flips: list[tuple[int, int]],
    end: float,
) -> None:
    buffer = io.BytesIO()
    draw("3", 60).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for place, change in flips:
        content[place % len(content)] ^= change
    path = tmp_path_factory.getbasetemp() / "damaged.png"
    path.write_bytes(content[: int(end * len(content))] if end < 0.9 else content)
    try:
        picture = read_picture(path, MNIST)
    except RawDataError as error:
        assert error.what == str(path)
    else:
        assert picture.images_KHW[0].shape == (28, 28)
        # Neither ends early unnoticed, and PNG has checksums.
        assert end >= 0.9
        assert kind == "JPEG" or content == buffer.getvalue()
