"""Pictures of every mode, format and orientation become 8-bit RGB, or one sentence that names the row."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from thinsight.errors import UserError
from thinsight.tasks.pictures import decode_picture, picture_cell, to_rgb

LEVELS = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024 + 77
WHOSE = "row 7 of task t"


def encoded(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pixels(picture):
    """(height, width, 3) uint8, through the door that a task uses."""
    image = decode_picture(WHOSE, picture)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_of_16_bit_grey_the_upper_byte_stays(form):
    shown = pixels(encoded(Image.fromarray(LEVELS), form))
    assert (shown == (LEVELS >> 8).astype(np.uint8)[..., None]).all()
    assert len(np.unique(shown)) == 64


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
@given(st.lists(st.integers(0, 65535), min_size=6, max_size=6))
@settings(max_examples=20, deadline=None)
def test_every_byte_order_of_16_bits_is_one_picture(mode, values):
    array = np.array(values, dtype=np.uint16).reshape(2, 3)
    image = Image.frombytes(mode, (3, 2), array.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    assert (np.asarray(to_rgb(image)) == (array >> 8)[..., None]).all()


def tiff(values, *, bits, photometric, order):
    """An uncompressed grey TIFF of one strip."""
    height, width = values.shape
    if bits == 12:
        a, b = values.ravel()[0::2].astype(int), values.ravel()[1::2].astype(int)
        strip = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], axis=1).astype(np.uint8).tobytes()
    else:
        strip = values.astype(f"{order}u2").tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(strip)}
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, 4 if tag in (273, 279) else 3, 1)
        + struct.pack(f"{order}I" if tag in (273, 279) else f"{order}H2x", value)
        for tag, value in tags.items()
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(strip))
    return head + strip + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(("bits", "photometric", "order"), [(16, 1, "<"), (16, 1, ">"), (16, 0, "<"), (12, 1, "<")])
def test_a_tiff_says_how_many_bits_it_has_and_whether_zero_is_white(bits, photometric, order):
    values = LEVELS >> (16 - bits)
    grey = (LEVELS >> 8).astype(np.uint8)
    shown = pixels(tiff(values, bits=bits, photometric=photometric, order=order))
    assert (shown == (grey if photometric else 255 - grey)[..., None]).all()


@pytest.mark.parametrize("mode", ["F", "I"])
def test_numbers_without_a_range_are_refused(mode):
    picture = encoded(Image.new(mode, (4, 4), 1), "TIFF")
    with pytest.raises(UserError, match=rf"image of {WHOSE} cannot be read .*mode {mode}\) have no stated range"):
        decode_picture(WHOSE, picture)


MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"]


@pytest.mark.parametrize("mode", MODES)
@given(st.binary(min_size=24, max_size=24))
@settings(max_examples=15, deadline=None)
def test_modes_of_8_bits_are_what_pillow_makes_of_them(mode, content):
    image = Image.new(mode, (3, 2))
    size = len(image.tobytes())
    image.frombytes(content[:size])
    if mode in ("P", "PA"):
        image.putpalette(bytes(range(256)) * 3)
    assert to_rgb(image).tobytes() == image.convert("RGB").tobytes()


def test_every_mode_of_pillow_becomes_rgb_or_one_sentence():
    for mode in [*MODES, "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"]:
        image = Image.new(mode, (3, 2))
        try:
            assert to_rgb(image).mode == "RGB"
        except UserError:
            assert mode in ("I", "F")


def test_alpha_and_transparency_are_left_out_as_before():
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(3, 4, 4), "RGBA")
    assert (pixels(encoded(image, "PNG")) == np.asarray(image)[..., :3]).all()
    palette = image.convert("RGB").quantize(8)
    assert (pixels(encoded(palette, "PNG", transparency=0)) == np.asarray(palette.convert("RGB"))).all()


TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}
"""Orientation -> what is shown of the stored pixels (height, width, 3)."""

COLOURS = np.arange(72, dtype=np.uint8).reshape(4, 6, 3) * 3


def exif(orientation):
    data = Image.Exif()
    data[274] = orientation
    return data


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_a_picture_is_turned_as_its_exif_data_say(orientation, form):
    lossless = {"lossless": True} if form == "WEBP" else {}
    picture = encoded(Image.fromarray(COLOURS), form, exif=exif(orientation), **lossless)
    assert (pixels(picture) == TURNED[orientation](COLOURS)).all()


@pytest.mark.parametrize("orientation", TURNED)
def test_grey_of_16_bits_is_turned_too(orientation):
    wide = LEVELS[:4]
    for form in ("PNG", "TIFF"):
        picture = encoded(Image.fromarray(wide), form, exif=exif(orientation))
        assert (pixels(picture) == TURNED[orientation]((wide >> 8)[..., None])).all()


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation):
    assert (pixels(encoded(Image.fromarray(COLOURS), "PNG", exif=exif(orientation))) == COLOURS).all()


@given(st.binary(max_size=60), st.integers(0, 120))
@settings(max_examples=60, deadline=None)
def test_damaged_exif_data_do_not_hide_the_picture(noise, start):
    data = bytearray(exif(6).tobytes())
    data[start : start + len(noise)] = noise
    shown = pixels(encoded(Image.fromarray(COLOURS), "PNG", exif=bytes(data)))
    assert any(shown.shape == turn(COLOURS).shape and (shown == turn(COLOURS)).all() for turn in TURNED.values())


def test_exif_data_that_cannot_be_written_again_still_turn():
    """Resolution as a text, where a number belongs: PIL reads it and fails to write it."""
    entries = struct.pack(">HHIH2x", 274, 3, 1, 6) + struct.pack(">HHI4s", 282, 2, 4, b"abc\0")
    data = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + entries + bytes(4)
    assert (pixels(encoded(Image.fromarray(COLOURS), "PNG", exif=data)) == np.rot90(COLOURS, -1)).all()


def test_of_an_animation_the_first_frame_is_read():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for form in ("PNG", "GIF", "TIFF"):
        picture = encoded(frames[0], form, save_all=True, append_images=frames[1:])
        assert (pixels(picture) == [[[255, 0, 0]]]).all()


def png(width, height):
    """A PNG of that size which says so and holds no pixels."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    parts = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("picture", "sentence"),
    [
        (None, f"{WHOSE} has no image."),
        (b"", f"{WHOSE} has no image."),
        (b"GIF89a and no more", "cannot be read"),
        (b"no picture", "no known format"),
        (png(20000, 20000), "400000000 pixels"),
        (png(0, 0), "cannot be read"),
        (encoded(Image.fromarray(COLOURS), "PNG")[:-30], "truncated"),
        (encoded(Image.fromarray(COLOURS), "TIFF")[:-30], "cannot be read"),
        (encoded(Image.fromarray(COLOURS), "JPEG")[:-30], "cannot be read"),
        (7, "is a int"),
        ([1, 2], "is a list"),
    ],
)
def test_what_is_no_picture_is_one_sentence_with_its_row(picture, sentence):
    with pytest.raises(UserError, match=WHOSE) as caught:
        decode_picture(WHOSE, picture)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_is_a_picture_or_one_sentence(data):
    form = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "TGA", "ICO"]))
    content = bytearray(encoded(Image.fromarray(COLOURS), form))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    with contextlib.suppress(UserError):
        assert decode_picture(WHOSE, bytes(content)).mode == "RGB"


def test_a_cell_holds_bytes_or_a_path_or_both(tmp_path):
    (tmp_path / "a.png").write_bytes(b"file")
    assert picture_cell({"bytes": b"x", "path": "a.png"}, tmp_path) == b"x"
    assert picture_cell({"bytes": None, "path": "a.png"}, tmp_path / "none", tmp_path) == tmp_path / "a.png"
    assert picture_cell({"bytes": b"x", "path": None}, tmp_path) == b"x"
    assert picture_cell("a.png", tmp_path) == tmp_path / "a.png"
    assert picture_cell(str(tmp_path / "a.png"), tmp_path / "none") == tmp_path / "a.png"
    for nothing in ({"bytes": None, "path": None}, {}, None, b"", ""):
        assert picture_cell(nothing, tmp_path) is None
    for signs in ("x" * 5000, f"{'x' * 60}/" * 20):  # too long for a name, or only for a sentence
        with pytest.raises(UserError, match=f"{WHOSE} .* in base64. Store its bytes") as caught:
            decode_picture(WHOSE, picture_cell(signs, tmp_path))
        assert len(str(caught.value)) < 200
    with pytest.raises(UserError, match=WHOSE):
        decode_picture(WHOSE, picture_cell("none.png", tmp_path))
