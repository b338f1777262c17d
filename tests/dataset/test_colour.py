"""Colours as every viewer shows them, whatever the file keeps them in."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from lora_eval.dataset.check import check
from lora_eval.dataset.folder import scan
from lora_eval.dataset.images import open_picture, read_picture
from lora_eval.errors import DatasetError
from tests.fakes import drawing

ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
PRO = ((0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.82491))
P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
PROFILES = {"adobe": (ADOBE, 2.19921875), "prophoto": (PRO, 1.8), "p3": (P3, 2.2), "linear": (ADOBE, 1.0)}


def fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def icc(tags: list[tuple[bytes, bytes]], space: bytes = b"RGB ") -> bytes:
    """An ICC profile (version 2.4, ICC.1:2001-04) of the given tags."""
    tags = [(b"desc", b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0" + b"\0" * 78),
            (b"cprt", b"text\0\0\0\0x\0\0\0"), (b"wtpt", xyz((0.9642, 1, 0.8249))), *tags]  # fmt: skip
    table, data, offset = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, body in tags:
        table += name + struct.pack(">II", offset + len(data), len(body))
        data += body + b"\0" * (-len(body) % 4)
    head = struct.pack(">I", 128 + len(table) + len(data)) + b"none" + struct.pack(">I", 0x02400000)
    head += b"mntr" + space + b"XYZ " + struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acspAPPL" + b"\0" * 28
    head += fixed(0.9642) + fixed(1) + fixed(0.8249)
    return head.ljust(128, b"\0") + table + data


def xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))


def curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def matrix_profile(name: str) -> bytes:
    columns, gamma = PROFILES[name]
    colours = [(f"{c}XYZ".encode(), xyz(v)) for c, v in zip("rgb", columns, strict=True)]
    return icc([*colours, *((f"{c}TRC".encode(), curve(gamma)) for c in "rgb")])


def two_colours() -> Image.Image:
    values = np.zeros((64, 64, 3), np.uint8)
    values[:32], values[32:] = (200, 40, 40), (40, 160, 60)
    return Image.fromarray(values)


def near(path: Path, *wanted: tuple[int, int, int], by: int = 3) -> bool:
    found = np.asarray(open_picture(path)).astype(int)
    rows = (10,) if len(wanted) == 1 else (10, 50)
    return all(np.abs(found[row, 10] - colour).max() <= by for row, colour in zip(rows, wanted, strict=True))


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
def test_a_profile_is_followed(tmp_path: Path, name: str, ending: str) -> None:
    """No trainer does; OpenDisplay/Home_Assistant_Integration#73 counts 15 % of photos, chaiNNer-org/chaiNNer#3296."""
    profile = matrix_profile(name)
    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    there = ImageCms.profileToProfile(two_colours(), ImageCms.createProfile("sRGB"), target, renderingIntent=1)
    options = {"quality": 98, "subsampling": 0} if ending == "jpg" else {"lossless": True} if ending == "webp" else {}
    there.save(tmp_path / f"a.{ending}", icc_profile=profile, **options)
    # linear light in 8 bits has one level where sRGB has five
    assert near(tmp_path / f"a.{ending}", (200, 40, 40), (40, 160, 60), by=6 if name == "linear" else 3)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_a_profile_and_transparency_together(tmp_path: Path, mode: str) -> None:
    profile = matrix_profile("adobe")
    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    there = ImageCms.profileToProfile(two_colours(), ImageCms.createProfile("sRGB"), target, renderingIntent=1)
    there.putalpha(Image.fromarray(np.repeat(np.uint8([[255] * 32 + [0] * 32]), 64, 0)))
    (there if mode == "RGBA" else there.quantize(8)).save(tmp_path / "a.png", icc_profile=profile)
    assert near(tmp_path / "a.png", (200, 40, 40), (40, 160, 60))
    assert np.asarray(open_picture(tmp_path / "a.png"))[10, 50].tolist() == [255, 255, 255]


def test_srgb_s_own_profile_and_none_leave_every_value(tmp_path: Path) -> None:
    image = drawing(3, (64, 64))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.save(tmp_path / "a.png", icc_profile=srgb)
    image.save(tmp_path / "b.png")
    for name in "ab":
        assert np.array_equal(np.asarray(open_picture(tmp_path / f"{name}.png")), np.asarray(image))


def test_a_grey_profile_is_followed(tmp_path: Path) -> None:
    profile = icc([(b"kTRC", curve(1.0))], b"GRAY")
    Image.new("L", (32, 32), 55).save(tmp_path / "a.png", icc_profile=profile)
    light = 55 / 255
    wanted = round(255 * (1.055 * light ** (1 / 2.4) - 0.055))
    assert near(tmp_path / "a.png", (wanted,) * 3)


def test_an_rgb_profile_on_a_grey_picture_is_followed(tmp_path: Path) -> None:
    Image.new("L", (32, 32), 55).save(tmp_path / "a.png", icc_profile=matrix_profile("linear"))
    assert open_picture(tmp_path / "a.png").getpixel((3, 3))[0] > 120  # type: ignore[index]


@pytest.mark.parametrize(
    ("profile", "note"),
    [
        (b"no profile", "is broken"),
        (icc([(b"kTRC", curve(2.2))], b"GRAY"), "is for GRAY"),
        (icc([], b"CMYK"), "for CMYK"),
    ],
)
def test_a_broken_profile_is_said_and_the_values_kept(tmp_path: Path, profile: bytes, note: str) -> None:
    image = drawing(3, (64, 64))
    image.save(tmp_path / "a.png", icc_profile=profile)
    found, notes = read_picture(tmp_path / "a.png")
    assert np.array_equal(np.asarray(found), np.asarray(image)) and len(notes) == 1 and note in notes[0]
    lines = [one for one in check(scan(tmp_path), None, 64) if one.code == "colours"]
    assert len(lines) == 1 and note in lines[0].message and lines[0].picture == "a.png"


def test_cmyk_without_a_profile_is_said(tmp_path: Path) -> None:
    two_colours().convert("CMYK").save(tmp_path / "a.jpg", quality=97)
    assert near(tmp_path / "a.jpg", (200, 40, 40), (40, 160, 60), by=6)
    assert "CMYK without a colour profile" in read_picture(tmp_path / "a.jpg")[1][0]


def test_adobe_rgb_that_only_exif_names_is_said(tmp_path: Path) -> None:
    def block(tag: int, kind: int, count: int, value: bytes) -> bytes:
        return struct.pack("<HHHI", 1, tag, kind, count) + value + b"\0" * 4

    blob = b"Exif\0\0II*\0" + struct.pack("<I", 8) + block(0x8769, 4, 1, struct.pack("<I", 26))
    blob += block(0xA005, 4, 1, struct.pack("<I", 44)) + block(1, 2, 4, b"R03\0")
    two_colours().save(tmp_path / "a.jpg", exif=blob)
    assert "says Adobe RGB" in "".join(read_picture(tmp_path / "a.jpg")[1])


def chunked(path: Path, kind: bytes, data: bytes, image: Image.Image) -> None:
    info = PngImagePlugin.PngInfo()
    info.add(kind, data)
    image.save(path, pnginfo=info)


def test_the_gamma_of_a_png_is_followed(tmp_path: Path) -> None:
    chunked(tmp_path / "a.png", b"gAMA", struct.pack(">I", 100000), Image.new("RGB", (32, 32), (55, 55, 55)))
    assert near(tmp_path / "a.png", (round(255 * (55 / 255) ** (1 / 2.2)),) * 3)
    chunked(tmp_path / "b.png", b"gAMA", struct.pack(">I", 45455), Image.new("RGB", (32, 32), (55, 55, 55)))
    assert near(tmp_path / "b.png", (55, 55, 55), by=0)


# -- more than 8 bits ------------------------------------------------------------------------------------


def png16(path: Path, values: np.ndarray, kind: int, extra: tuple[bytes, bytes] | None = None) -> None:
    """A 16-bit PNG by hand: Pillow writes only grey ones. ``kind``: 0 grey, 2 RGB, 4 grey and alpha, 6 RGBA."""
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))]
    parts += [chunk(*extra)] if extra else []
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_pngs_with_and_without_transparency(tmp_path: Path, kind: int, channels: int) -> None:
    """python-pillow/Pillow#2574: a plain conversion clips at 255 and gives white. python-pillow/Pillow#5991, too."""
    values = np.full((32, 32, channels), 0x8040, np.uint16)
    if channels in (2, 4):
        values[..., -1] = 0xFFFF
        values[16:, :, -1] = 0
    png16(tmp_path / "a.png", values, kind)
    found = np.asarray(open_picture(tmp_path / "a.png"))
    assert np.abs(found[3, 3].astype(int) - 0x80).max() <= 1
    assert (found[20, 3] == 255).all() == (channels in (2, 4))


@pytest.mark.parametrize("kind", [0, 2])
def test_the_transparent_colour_of_a_sixteen_bit_png(tmp_path: Path, kind: int) -> None:
    values = np.full((32, 32, 1 if kind == 0 else 3), 0x2040, np.uint16)
    values[16:] = 0x9000
    png16(tmp_path / "a.png", values, kind, (b"tRNS", struct.pack(">H", 0x9000) * (1 if kind == 0 else 3)))
    found = np.asarray(open_picture(tmp_path / "a.png"))
    assert np.abs(found[3, 3].astype(int) - 0x20).max() <= 1 and (found[20, 3] == 255).all()


@pytest.mark.parametrize(("top", "dtype"), [(1.0, np.float32), (255.0, np.float32), (65535, np.uint16)])
def test_float_and_sixteen_bit_tiffs_keep_their_range(tmp_path: Path, top: float, dtype: type) -> None:
    ramp = np.linspace(0, top, 1024).reshape(32, 32).astype(dtype)
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    found = np.asarray(open_picture(tmp_path / "a.tif"))[..., 0].astype(float)
    assert np.abs(found - ramp / top * 255).max() <= 1


@pytest.mark.parametrize("top", [3.7, 4000.0, np.nan, -1.0])
def test_floating_point_of_no_known_range_is_refused(tmp_path: Path, top: float) -> None:
    ramp = np.linspace(0, 1, 1024).reshape(32, 32).astype(np.float32)
    ramp[3, 3] = top
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    with pytest.raises(DatasetError, match=r"a\.tif: it has .*; save it as an 8-bit or 16-bit PNG"):
        open_picture(tmp_path / "a.tif")


def test_lab_pictures_are_converted(tmp_path: Path) -> None:
    lab = ImageCms.profileToProfile(two_colours(), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"),
                                    outputMode="LAB")  # fmt: skip
    lab.save(tmp_path / "a.tif")
    assert near(tmp_path / "a.tif", (200, 40, 40), (40, 160, 60))


@pytest.mark.parametrize(
    ("head", "package"),
    [
        (b"\0\0\0\x18ftypheic", "pillow-heif"),
        (b"\0\0\0\x18ftypavif", "pillow-avif-plugin"),
        (b"\xff\x0a", "jxl-plugin"),
    ],
)
def test_a_picture_under_a_wrong_ending_names_the_package(tmp_path: Path, head: bytes, package: str) -> None:
    """A phone's HEIC that was renamed to .jpg: bmaltais/kohya_ss#2993, kohya-ss/sd-scripts#786."""
    (tmp_path / "a.jpg").write_bytes(head + b"\0" * 500)
    with pytest.raises(DatasetError, match=package):
        open_picture(tmp_path / "a.jpg")
