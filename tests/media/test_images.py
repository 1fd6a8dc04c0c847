"""Pictures come out upright, opaque and in 8-bit RGB, whatever they are in the file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.media import hostile
from x2i_platform.errors import InputError
from x2i_platform.media.images import decode_image, read_image
from x2i_platform.media.limits import MediaLimits

TURNED = 274
"""EXIF's tag of the orientation."""


def pixels(content: bytes) -> np.ndarray:
    image = decode_image(content)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_is_read_by_its_content(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.dat"
    path.write_bytes(hostile.picture(kind))
    assert read_image(path).size == (64, 48)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_the_camera_was_held(orientation: int) -> None:
    upright = Image.new("RGB", (4, 2), "black")
    upright.putpixel((0, 0), (255, 0, 0))
    upright.putpixel((3, 1), (0, 255, 0))
    held = {  # what the sensor stores, by the orientation that it writes down
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[TURNED] = orientation
    stored = upright if held is None else upright.transpose(held)
    assert (pixels(saved(stored, exif=exif)) == np.asarray(upright)).all()


def test_what_shines_through_is_white() -> None:
    half = Image.new("RGBA", (2, 1), (200, 0, 0, 128))
    half.putpixel((1, 0), (9, 9, 9, 0))
    assert pixels(saved(half)).tolist()[0] == [pytest.approx([227, 127, 127], abs=1), [255, 255, 255]]
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert pixels(saved(palette, transparency=0)).tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_cmyk_becomes_rgb() -> None:
    assert pixels(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF")).tolist()[0][0] == [255, 0, 0]


@pytest.mark.parametrize("mode", ["uint16", "float32"])
def test_more_bits_are_scaled_and_not_cut(mode: str) -> None:
    top = 65535 if mode == "uint16" else 1.0
    ramp = (np.linspace(0, top, 256)[None].repeat(4, 0)).astype(mode)
    found = pixels(saved(Image.fromarray(ramp), "TIFF"))
    assert abs(found[0, :, 0] - np.arange(256)).max() <= 1


def test_of_an_animation_the_first_frame_is_taken() -> None:
    assert pixels(hostile.gif(num_frames=5))[0, 0].tolist() == [0, 0, 0]


def test_a_url_is_not_fetched() -> None:
    with pytest.raises(InputError, match="nothing is fetched"):
        read_image(Path("https://example.com/cat.png"))


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is missing"):
        read_image(tmp_path / "cat.png")
    with pytest.raises(InputError, match="is no file"):
        read_image(tmp_path)
    (tmp_path / "large.png").write_bytes(hostile.picture())
    with pytest.raises(InputError, match="at most 100 are taken"):
        read_image(tmp_path / "large.png", limits=MediaLimits(image_bytes=100))
