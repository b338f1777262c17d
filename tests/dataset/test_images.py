"""One picture as a person sees it, or one line why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_eval.dataset.images import open_picture
from lora_eval.errors import DatasetError
from tests.fakes import drawing

TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("flag", TURNS)
def test_exif_flags_turn_the_picture(tmp_path: Path, flag: int) -> None:
    image = drawing(1, (48, 32))
    exif = Image.Exif()
    exif[0x0112] = flag
    image.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(open_picture(tmp_path / "a.png")), TURNS[flag](np.asarray(image)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_over_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 16, 32))
    if mode == "P":
        image = image.quantize(4)
    image.convert(mode).save(tmp_path / "a.png")
    pixels = np.asarray(open_picture(tmp_path / "a.png"))
    assert (pixels[:, :16] == 0).all() and (pixels[:, 16:] == 255).all()


def test_half_transparent_black_is_mid_grey(tmp_path: Path) -> None:
    Image.new("RGBA", (32, 32), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert np.asarray(open_picture(tmp_path / "a.png"))[0, 0].tolist() == [127, 127, 127]


def test_sixteen_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    grey = np.asarray(open_picture(tmp_path / "a.png"))[:, :, 0]
    assert np.array_equal(grey, ramp >> 8)


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "RGB"])
def test_every_mode_comes_out_as_rgb(tmp_path: Path, mode: str) -> None:
    drawing(0).convert(mode).save(tmp_path / "a.tif")
    assert open_picture(tmp_path / "a.tif").mode == "RGB"


def test_animations_give_their_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert open_picture(tmp_path / "a.gif").getpixel((3, 3)) == (255, 0, 0)


def truncated(path: Path) -> None:
    drawing(1, (200, 200)).save(path)
    path.write_bytes(path.read_bytes()[:-400])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: None, "does not exist"),
        (lambda p: p.write_bytes(b""), r"is empty \(0 bytes\)"),
        (lambda p: p.write_bytes(b"no picture at all"), "not a picture that can be read"),
        (truncated, "cannot be read"),
        (lambda p: drawing(1, (8, 300)).save(p), "8 x 300 pixels"),
        (lambda p: Image.new("1", (20000, 6000)).save(p), "20000 x 6000 pixels, more than 100 million"),
        (lambda p: Image.new("1", (20000, 10000)).save(p), "more than 100 million"),
    ],
    ids=["missing", "empty", "text", "truncated", "sliver", "giant", "bomb"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_unusable_pictures_are_one_line_with_the_name(tmp_path: Path, spoil: object, message: str) -> None:
    path = tmp_path / "a.png"
    spoil(path)  # type: ignore[operator]
    with pytest.raises(DatasetError, match=message) as caught:
        open_picture(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and ";" in str(caught.value)
