"""Pictures of any mode, format and orientation as 8-bit RGB, and one sentence for what is none."""

import io
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from thinsight.errors import UserError

READING = {
    "orientation": "turned as EXIF says",
    "frame": "first",
    "alpha": "left out",
    "grey_of_16_bits": "upper byte",
}
"""How pictures are read, for the protocol card."""

LONG = 300  # signs of a path that is not repeated in an error
BITS, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # tags of a TIFF file


def decode_picture(whose: str, picture: Any) -> Image.Image:
    """The ``picture`` in RGB: encoded bytes, the path of a file, or a PIL image. ``whose`` names its row in errors."""
    if picture is None or (isinstance(picture, bytes | bytearray | memoryview) and not picture):
        raise UserError(f"{whose} has no image.")
    try:
        if isinstance(picture, Image.Image):
            return to_rgb(picture)
        if not isinstance(picture, bytes | bytearray | memoryview | Path):
            raise UserError(f"it is a {type(picture).__name__}, neither the bytes of a file nor its path")
        with Image.open(picture if isinstance(picture, Path) else io.BytesIO(picture)) as image:
            return to_rgb(image)
    except UnidentifiedImageError as error:
        raise UserError(f"the image of {whose} cannot be read (it has no known format of pictures).") from error
    except Exception as error:  # PIL's readers raise whatever a damaged file leads them to
        raise UserError(f"the image of {whose} cannot be read ({why_unread(error)}).") from error


def picture_size(whose: str, picture: bytes | None) -> tuple[int, int]:
    """Width and height in pixels of an encoded ``picture`` as it is stored, read off the head of the file."""
    if not picture:
        raise UserError(f"{whose} has no image.")
    try:
        with Image.open(io.BytesIO(picture)) as image:
            return image.size
    except Exception as error:  # as above
        raise UserError(f"the image of {whose} cannot be read ({why_unread(error)}).") from error


def why_unread(error: Exception) -> str:
    """What an error at reading a picture says, in one line; of a file with a long name not the name."""
    if isinstance(error, OSError) and len(str(error.filename or "")) > LONG:
        return f"{error.strerror}; is the cell the file itself in base64? Store its bytes"
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of an image of any mode: its first frame, turned as its EXIF data say, without alpha.

    Of a grey value of 16 bits the upper byte. Numbers without a stated range (modes I and F) are a `UserError`.
    """
    if 0 in image.size:
        raise UserError("it has no pixels")
    grey = None
    image.load()
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):  # both scale to 65535
        grey = _upper_byte(image)
    elif image.mode in ("I", "F"):
        raise UserError(f"its numbers (mode {image.mode}) have no stated range: save it with 8 or 16 bits")
    elif image.mode == "La":
        image = image.convert("LA")
    return _turned(image, grey or image.convert("RGB"))


def _upper_byte(image: Image.Image) -> Image.Image:
    """RGB of 16-bit grey; a TIFF file may hold fewer bits, or say that zero is white."""
    values = np.asarray(image).astype(np.uint16)
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    (bits,) = tags.get(BITS, (16,))
    upper = (values >> (bits - 8)).astype(np.uint8)
    return Image.fromarray(255 - upper if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else upper).convert("RGB")


def _turned(image: Image.Image, pixels: Image.Image) -> Image.Image:
    """``pixels`` of the loaded ``image``, turned as its EXIF data say; data that cannot be read say nothing."""
    with suppress(Exception):  # PIL reads EXIF as a TIFF file, and raises whatever a damaged one leads it to
        if (orientation := image.getexif().get(ExifTags.Base.Orientation)) is not None:
            pixels.info = {}  # or PIL would write all of EXIF anew, which it cannot do with everything that it reads
            pixels.getexif()[ExifTags.Base.Orientation] = orientation
            return ImageOps.exif_transpose(pixels)
    return pixels


def picture_cell(cell: Any, *folders: Path) -> Any:
    """What the cell of a table holds of a picture: its bytes, or the path of its file, in one of ``folders``.

    A cell may be bytes, a path, or a mapping of both as `datasets` writes it, of which either may be missing.
    """
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    if not isinstance(cell, str) or not cell:
        return cell or None
    paths = [folder / cell for folder in folders]
    with suppress(OSError):  # too long for a name
        return next((path for path in paths if path.is_file()), paths[0])
    return paths[0]
