import io
import os
import pickle
import resource
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from paribus.data.classification import ClassFolders
from paribus.data.files import SampleError, read_image, read_mask
from small_data import class_folders, picture, save


def with_orientation(path, pixels, orientation, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(path, pixels, exif=exif, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 90},
        {"quality": 70, "progressive": True},
        {"quality": 95, "subsampling": 0},
        {"restart_marker_blocks": 1},
    ],
)
@pytest.mark.parametrize("shape", [(37, 53, 3), (8, 8, 3), (37, 53)])
def test_fast_jpeg_equals_pillow(tmp_path, options, shape):
    noise = np.random.default_rng(0).integers(0, 255, (6, 6, 3), np.uint8)
    pixels = cv2.resize(noise, shape[1::-1])
    path = save(tmp_path / "a.jpg", pixels if len(shape) == 3 else pixels[..., 0], **options)
    np.testing.assert_array_equal(read_image(path), Image.open(path).convert("RGB"))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "ppm", "gif"])
def test_other_formats_equal_pillow(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", picture(0))
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, Image.open(path).convert("RGB"))


def test_grey_is_repeated(tmp_path):
    grey = picture(1)[..., 0]
    for name in ("a.png", "a.tif"):
        image = read_image(save(tmp_path / name, grey))
        np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, axis=2))


def test_alpha_is_dropped(tmp_path):
    colours = picture(2)
    for name in ("a.png", "a.webp"):
        options = {"lossless": True, "exact": True} if name.endswith("webp") else {}
        path = save(tmp_path / name, np.dstack([colours, np.zeros((24, 32), np.uint8)]), **options)
        np.testing.assert_array_equal(read_image(path), colours)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    grey = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    expected = [0, 0, 1, 128, 255]
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    cv2.imwrite(str(tmp_path / "grey.tif"), grey)
    cv2.imwrite(str(tmp_path / "colour.png"), np.dstack([grey] * 3))
    for name in ("grey.png", "grey.tif", "colour.png"):
        image = read_image(tmp_path / name)
        assert image.shape == (1, 5, 3), name
        assert image[0].tolist() == [[v] * 3 for v in expected], name


def test_float_image_is_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(SampleError, match="floats or 32-bit numbers: store 8 or 16 bits"):
        read_image(tmp_path / "a.tif")


def test_palette_and_cmyk_become_rgb(tmp_path):
    image = Image.fromarray(picture(3))
    image.quantize(8).save(tmp_path / "a.png")
    image.convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    for name in ("a.png", "a.jpg"):
        found = read_image(tmp_path / name)
        np.testing.assert_array_equal(found, Image.open(tmp_path / name).convert("RGB"))
        assert np.abs(found.mean((0, 1)) - picture(3).mean((0, 1))).max() < 10


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_orientation_is_applied_once(tmp_path, orientation, suffix):
    from PIL import ImageOps

    path = with_orientation(tmp_path / f"a.{suffix}", picture(0, (24, 32)), orientation)
    expected = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    np.testing.assert_array_equal(read_image(path), expected)


def test_orientation_is_left_out_where_the_annotation_was_made_without(tmp_path):
    path = with_orientation(tmp_path / "a.jpg", picture(0, (24, 32)), 6)
    assert read_image(path).shape == (32, 24, 3)
    assert read_image(path, annotated=(32, 24)).shape == (32, 24, 3)
    assert read_image(path, annotated=(24, 32)).shape == (24, 32, 3)
    assert read_image(path, annotated=(5, 5)).shape == (32, 24, 3)  # neither: upright


def test_nonsense_orientation_is_upright(tmp_path):
    path = with_orientation(tmp_path / "a.jpg", picture(0, (24, 32)), 99)
    assert read_image(path).shape == (24, 32, 3)


def test_mask_values_are_those_stored(tmp_path):
    values = np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.uint8)
    palette = Image.fromarray(values)
    palette = Image.frombytes("P", (4, 2), values.tobytes())
    palette.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    palette.save(tmp_path / "palette.png")
    palette.save(tmp_path / "palette2.png", bits=2)
    save(tmp_path / "grey.png", values)
    save(tmp_path / "grey.tif", values)
    save(tmp_path / "grey.bmp", values)
    save(tmp_path / "three.png", np.dstack([values] * 3))
    for path in sorted(tmp_path.iterdir()):
        mask = read_mask(path)
        assert mask.dtype == np.uint8, path.name
        np.testing.assert_array_equal(mask, values, err_msg=path.name)


@pytest.mark.parametrize(("bits", "top"), [(1, 1), (2, 3), (4, 15)])
def test_few_bit_grey_masks_are_not_stretched(tmp_path, bits, top):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = {1: 0b01000000, 2: 0b00011011, 4: 0x0F}[bits]
    width = {1: 2, 2: 4, 4: 2}[bits]
    header = struct.pack(">IIBBBBB", width, 1, bits, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes([0, row])))
    (tmp_path / "a.png").write_bytes(data + chunk(b"IEND", b""))
    mask = read_mask(tmp_path / "a.png")
    assert mask.dtype == np.uint8
    assert mask.tolist() == ([[0, 1, 2, 3]] if bits == 2 else [[0, top]])


def test_sixteen_bit_mask_keeps_its_ids(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.array([[0, 256, 33000]], np.uint16))
    mask = read_mask(tmp_path / "a.png")
    assert mask.dtype == np.int32
    assert mask.tolist() == [[0, 256, 33000]]


def test_colour_mask_stays_colour(tmp_path):
    assert read_mask(save(tmp_path / "a.png", picture(0))).shape == (24, 32, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_broken_files_are_named(tmp_path, suffix, read):
    path = save(tmp_path / f"a.{suffix}", picture(0, (200, 300)))
    data = path.read_bytes()
    for length, message in (
        (0, r"is empty \(0 bytes\)"),
        (len(data) // 2, "truncated"),
        (len(data) - 100, "truncated"),
    ):
        path.write_bytes(data[:length])
        with pytest.raises(SampleError, match=message):
            read(path)
    path.write_text("<html>404 Not Found</html>")
    with pytest.raises(SampleError, match="is not an image file"):
        read(path)
    path.unlink()
    with pytest.raises(SampleError, match=rf"a\.{suffix}: file is missing"):
        read(path)


def png(width: int, height: int, kind: int = 2, bits: int = 8) -> bytes:
    """A small file that claims to be so large, complete, every check sum right."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def bombs() -> dict[str, bytes]:
    jpeg = cv2.imencode(".jpg", picture(0))[1].tobytes()
    at = jpeg.index(b"\xff\xc0") + 5
    tall = jpeg[:at] + struct.pack(">HH", 60000, 60000) + jpeg[at + 4 :]
    kept = io.BytesIO()
    Image.fromarray(picture(0)).save(kept, "gif")
    gif = kept.getvalue()[:6] + struct.pack("<HH", 60000, 60000) + kept.getvalue()[10:]
    bmp = bytearray(cv2.imencode(".bmp", picture(0))[1].tobytes())
    bmp[18:26] = struct.pack("<ii", 60000, 60000)
    return {
        "rgb.png": png(60000, 60000),
        "grey.png": png(60000, 60000, kind=0),
        "sixteen.png": png(60000, 60000, kind=0, bits=16),  # which Pillow decodes, and not OpenCV
        "palette.png": png(60000, 60000, kind=3),
        "plain.jpg": tall,
        "cut.jpg": tall[:-2],  # not complete: Pillow's
        "frame.gif": gif,
        "plain.bmp": bytes(bmp),
        "plain.ppm": b"P6 60000 60000 255 ",
    }


@pytest.mark.parametrize("name", bombs())
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_a_small_file_that_claims_to_be_huge_is_named_before_memory_is_taken(tmp_path, name, read):
    path = tmp_path / name
    path.write_bytes(bombs()[name])
    tracemalloc.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        SampleError, match=rf"{name}: claims 60000 x 60000 pixels.*178,956,970.*=3600000000 "
    ) as said:
        read(path)
    assert said.value.file == path
    assert tracemalloc.get_traced_memory()[1] < 2**24
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB
    tracemalloc.stop()


def test_the_limit_can_be_moved(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", picture(0, (24, 32)))
    monkeypatch.setenv("PARIBUS_MAX_PIXELS", "767")
    with pytest.raises(
        SampleError, match=r"claims 32 x 24 pixels, and an image may have 767.*PARIBUS_MAX_PIXELS=768"
    ):
        read_image(path)
    monkeypatch.setenv("PARIBUS_MAX_PIXELS", "768")
    assert read_image(path).shape == (24, 32, 3)
    monkeypatch.setenv("PARIBUS_MAX_PIXELS", "many")
    with pytest.raises(ValueError, match=r"PARIBUS_MAX_PIXELS=many .*a number of pixels, 178956970"):
        read_image(path)


def test_a_set_is_looked_at_again_under_another_limit(tmp_path, monkeypatch):
    from paribus.data.remembered import remembered

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    reader = ClassFolders(root=str(class_folders(tmp_path / "set", each=1)))
    split = reader.split("train")

    def problems():
        return remembered("verified", reader, split, split.problems, "")

    monkeypatch.setenv("PARIBUS_MAX_PIXELS", "5")
    assert len(problems()) == len(split)
    monkeypatch.delenv("PARIBUS_MAX_PIXELS")
    assert problems() == []


def test_a_file_larger_than_any_image_is_not_read(tmp_path):
    path = tmp_path / "a.png"
    with open(path, "wb") as file:
        file.truncate(2**36)  # 64 GiB, none of it on the disk
    with pytest.raises(SampleError, match=r"a\.png: is a file of 68,719,476,736 bytes"):
        read_image(path)


def test_what_a_file_holds_counts_and_not_its_name(tmp_path):
    jpeg = save(tmp_path / "a.jpg", picture(0), quality=90)
    lying = tmp_path / "b.png"
    lying.write_bytes(jpeg.read_bytes())
    np.testing.assert_array_equal(read_image(lying), read_image(jpeg))
    for content in (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        b"hello",
        b"\0" * 99,
    ):
        lying.write_bytes(content)  # the first Pillow would hand to Ghostscript
        with pytest.raises(SampleError, match=r"b\.png: is not an image file"):
            read_image(lying)


def test_sample_error_survives_a_worker_process(tmp_path):
    with pytest.raises(SampleError) as caught:
        read_image(tmp_path / "a.jpg")
    assert str(type(caught.value)(str(caught.value))) == str(caught.value)


def test_problems_are_in_order_and_relative_and_can_be_left_out(tmp_path):
    class_folders(tmp_path, each=100, splits=("train",), size=(8, 8))
    for name in ("cat/005.jpg", "dog/099.jpg", "emu/000.jpg"):
        (tmp_path / "train" / name).write_bytes(b"")
    split = ClassFolders(root=str(tmp_path)).split("train")
    problems = split.problems()
    assert [(p.index, p.file) for p in problems] == [
        (5, "train/cat/005.jpg"),
        (199, "train/dog/099.jpg"),
        (200, "train/emu/000.jpg"),
    ]
    rest = split.without({p.index for p in problems})
    assert len(rest) == 297
    assert rest.problems() == []
    assert rest[5].id == "train/cat/006.jpg"
    assert len(split) == 300
    assert len(rest.files()) == 297
    assert all(map(os.path.isfile, rest.files()))


def test_split_travels_to_workers(tmp_path):
    split = ClassFolders(root=str(class_folders(tmp_path))).split("val")
    copy = pickle.loads(pickle.dumps(split))
    assert copy[3].id == split[3].id
    np.testing.assert_array_equal(copy[3].image, split[3].image)
