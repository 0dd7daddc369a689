"""Images and masks from files, and the split that reads them.

Every reader of files is a list of items and a function that reads one item or raises `SampleError`.
Checking a set is reading it: what `FileSplit.problems` lists is what training would have met.
"""

import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

import cv2
import numpy as np
from PIL import Image

from paribus.data.limits import MAX_PIXELS, MOST_BYTES, TooLargeError, allow, most_pixels
from paribus.data.samples import DataError, Problem, Sample

cv2.setNumThreads(0)  # a thread for each worker is enough; more of them fight

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")
RESTORE = "restore the file, or take it out of the set"
FORMATS = ("JPEG", "PNG", "BMP", "PPM", "GIF", "WEBP", "TIFF")  # Pillow's; for others it may start programs
Image.MAX_IMAGE_PIXELS = None  # limits.py has the limit; Pillow would warn at half of it

Item = TypeVar("Item")


class SampleError(ValueError):
    """A sample that cannot be used: its file, what is wrong, and how to mend it."""

    def __init__(self, file: Path | str, what: str = "", fix: str = RESTORE):
        # One argument alone is the message: so a DataLoader rebuilds it from its worker.
        super().__init__(f"{file}: {what}; {fix}" if what else str(file))
        self.file, self.what, self.fix = file, what, fix


# Decoding. cv2 decodes what it decodes exactly as Pillow does (plain JPEG, 8-bit grey or RGB PNG), 1.1
# to 4 times as fast; Pillow has the rest, and the verdict on what cv2 refuses.


def read_image(path: Path | str, annotated: tuple[int, int] | None = None) -> np.ndarray:
    """The image as uint8 RGB ``[H, W, 3]``, upright.

    Grey is repeated in three channels, alpha is dropped (not composited: as `Image.convert("RGB")` and
    torchvision do), palette and CMYK are converted, 16 bits keep their upper 8.
    The EXIF orientation is applied, once. `annotated` is the (H, W) that boxes or a mask were made for:
    an image that has this size only without its orientation is left as it is stored, since the
    annotation was made on it so.

    Raises:
        SampleError: the file is missing, empty, truncated, too large, or no image.
    """
    data = _bytes(path)
    try:
        pixels, orientation = _decode(data, mask=False)
    except Exception as error:  # Pillow's decoders raise whatever they stumble on
        raise _undecodable(path, error) from error
    upright = _turn(pixels, orientation)
    if annotated is not None and upright.shape[:2] != annotated == pixels.shape[:2]:
        upright = pixels
    return np.ascontiguousarray(upright)


def read_mask(path: Path | str) -> np.ndarray:
    """The numbers that are stored, as ``[H, W]``: uint8, or int32 where the file holds 16 bits.

    A palette file gives its indices, 1-, 2- and 4-bit files their values (0, 1, …; not scaled to 255),
    three equal channels one. A mask of colours comes as uint8 RGB ``[H, W, 3]``.

    Raises:
        SampleError: the file is missing, empty, truncated, too large, or no image.
    """
    data = _bytes(path)
    try:
        pixels, orientation = _decode(data, mask=True)
    except Exception as error:
        raise _undecodable(path, error) from error
    if pixels.ndim == 3 and (pixels[..., :1] == pixels).all():
        pixels = pixels[..., 0]
    return np.ascontiguousarray(_turn(pixels, orientation))


def _bytes(path: Path | str) -> bytes:
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MOST_BYTES * most_pixels():
                raise _too_large(path, f"is a file of {size:,} bytes", size // MOST_BYTES + 1)
            data = file.read()
    except FileNotFoundError:
        raise SampleError(path, "file is missing") from None
    except OSError as error:
        raise SampleError(path, f"cannot be opened ({error.strerror})") from None
    if not data:
        raise SampleError(path, "file is empty (0 bytes)")
    return data


def _too_large(path: Path | str, what: str, pixels: int) -> SampleError:
    return SampleError(
        path,
        f"{what}, and an image may have {most_pixels():,} pixels",
        f"{RESTORE}; if it is that large, set {MAX_PIXELS}={pixels} in the environment",
    )


def _undecodable(path: Path | str, error: Exception) -> SampleError:
    if isinstance(error, TooLargeError):
        return _too_large(path, *error.args)
    if isinstance(error, Image.UnidentifiedImageError):
        return SampleError(path, "is not an image file that OpenCV or Pillow knows")
    return SampleError(path, f"cannot be decoded ({error})")


def _decode(data: bytes, mask: bool) -> tuple[np.ndarray, int]:
    """Pixels as stored, and the EXIF orientation (1 to 8; 1 is upright)."""
    fast, exif = (_jpeg if data[:2] == b"\xff\xd8" else _png)(data)
    if fast:
        grey_png = mask and data[25] == 0 and data[:2] != b"\xff\xd8"
        flag = cv2.IMREAD_UNCHANGED if grey_png else cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        if pixels is not None:
            return pixels, _orientation(Image.open(io.BytesIO(data))) if exif else 1
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        allow(*image.size)
        image.load()
        pixels = _mask_pixels(image, data) if mask else _rgb_pixels(image)
        return pixels, _orientation(image)


def _jpeg(data: bytes) -> tuple[bool, bool]:
    """Whether this is a complete grey or YCbCr JPEG, and whether it holds EXIF; TooLargeError for one too large."""
    at, channels, exif = 2, 0, False
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker == 0xDA:  # the scan begins; some versions of cv2 fill up what is cut off with grey
            return channels in (1, 3) and data.rfind(b"\xff\xd9", at) > 0, exif
        if marker == 0xE1:
            exif |= data[at + 4 : at + 8] in (b"Exif", b"http")  # XMP may hold the orientation as well
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            channels = data[at + 9]
            allow(int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big"))
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False, exif


def _png(data: bytes) -> tuple[bool, bool]:
    """The same of an 8-bit grey or RGB PNG; files that may hold EXIF go to Pillow."""
    at = 8
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[24:26] in (b"\x08\x00", b"\x08\x02"):
        allow(int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"))
        while at + 12 <= len(data):
            kind = data[at + 4 : at + 8]
            if kind in (b"eXIf", b"zTXt", b"iTXt") or data[at + 4 : at + 19] == b"tEXtRaw profile":
                break
            if kind == b"IEND":
                return True, False
            at += 12 + int.from_bytes(data[at : at + 4], "big")
    return False, False


def _rgb_pixels(image: Image.Image) -> np.ndarray:
    if image.mode.startswith(("I", "F")):  # convert("RGB") would clip these at 255
        grey = np.asarray(image)
        if image.mode == "F" or grey.min() < 0 or grey.max() > 65535:
            raise ValueError("it holds floats or 32-bit numbers: store 8 or 16 bits")
        return np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2)
    return np.array(image.convert("RGB"))


def _mask_pixels(image: Image.Image, data: bytes) -> np.ndarray:
    if image.mode in ("1", "L", "P"):
        indices = np.array(image, np.uint8)
        if image.format == "PNG" and data[25] == 0 and data[24] in (2, 4):
            indices //= {2: 85, 4: 17}[data[24]]  # Pillow stretches few-bit grey to 0..255
        return indices
    if image.mode.startswith("I"):
        return np.array(image).astype(np.int32)
    if image.mode == "F":
        raise ValueError("it holds floats: store class numbers")
    return np.array(image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(0x0112, 1)
    return value if value in range(1, 9) else 1


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def wh(shape: Sequence[int]) -> str:
    """A size in words, width first as the world says it."""
    return f"{shape[1]} x {shape[0]}"


# Files.


class FileSplit(Generic[Item]):
    """The samples of one split, each read from its files when it is asked for.

    root: what the names in messages are relative to. read: makes a sample of an item or raises
    `SampleError`. sources: the files of one item. shared: files that all items come from, as lists.
    """

    def __init__(
        self,
        *,
        root: Path,
        items: Sequence[Item],
        read: Callable[[Item], Sample],
        sources: Callable[[Item], Iterable[Path | str]],
        shared: Iterable[Path] = (),
    ):
        self.root, self.items, self.read, self.sources = root, items, read, sources
        self.shared = tuple(shared)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        return self.read(self.items[index])

    def problems(self) -> list[Problem]:
        """Reads every sample, in threads; what cannot be used, in the split's order."""

        def check(start: int) -> list[Problem]:
            found = []
            for index in range(start, min(start + 64, len(self))):
                try:
                    self[index]
                except SampleError as bad:
                    found.append(Problem(index, relative(bad.file, self.root), bad.what, bad.fix))
            return found

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
            return [problem for part in threads.map(check, range(0, len(self), 64)) for problem in part]

    def without(self, indices: set[int]) -> "FileSplit[Item]":
        """The same split, those samples left out."""
        left = [item for index, item in enumerate(self.items) if index not in indices]
        return FileSplit(root=self.root, items=left, read=self.read, sources=self.sources, shared=self.shared)

    def files(self) -> list[Path | str]:
        """Every file that this split reads, each once."""
        own = (path for item in self.items for path in self.sources(item))
        return list(dict.fromkeys((*self.shared, *own)))


def relative(path: Path | str, root: Path) -> str:
    """The path as messages and ids show it."""
    return os.path.relpath(path, root)


def existing_root(root: str) -> Path:
    """The set's folder, `~` expanded, or a DataError that says what to set."""
    path = Path(root).expanduser()
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "does not exist"
        raise DataError(
            f"The data folder {path.absolute()} {what}: set `data.reader.root` to where the set lies."
        )
    return path


def read_list(path: Path) -> list[str]:
    """The lines of a list file that are not empty."""
    if not path.is_file():
        raise DataError(
            f"The list {path.absolute()} does not exist: write the images' names into it, one a line, "
            "or say with `data.reader.lists` where it is, or what stands in for this split with "
            "`data.reader.splits` or `data.reader.split`."
        )
    return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
