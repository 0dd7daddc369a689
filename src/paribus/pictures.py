"""Pictures of what a model was shown, what is true and what it answered. uint8 RGB in, uint8 RGB out.

Colour never says anything alone: boxes carry their class in words, and masks a legend.
"""

import colorsys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from paribus.data.samples import IGNORE

Color = tuple[int, int, int]

# Okabe and Ito's colours, told apart by every common kind of colour vision, then some after Paul Tol; none
# so dark that a line of it is lost in a dark photograph.
SAFE: list[Color] = [
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0)),
    *((204, 121, 167), (170, 68, 153), (68, 170, 153), (221, 204, 119), (120, 120, 220), (153, 153, 51)),
]
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
BLACK, WHITE, GREY = (0, 0, 0), (255, 255, 255), (110, 110, 110)
WRONG = (213, 94, 0)  # of Okabe and Ito
OVERLAY = 384  # pixels of an overlay's longer side, at least


class Example(NamedTuple):
    """One judged sample.

    image: uint8 ``[H, W, 3]``. truth: as in `Sample.target`; None where it is not known.
    answer, by kind of target: ``label``, ``labels`` probabilities ``[C]``; ``mask`` classes ``[H, W]``;
    ``boxes`` a dict of ``boxes`` ``[N, 4]``, ``labels``, ``scores`` and optionally ``masks``.
    """

    image: np.ndarray
    truth: Any
    answer: Any
    id: str


def class_colors(classes: Sequence[str], palette: Sequence[Color] | None = None) -> list[Color]:
    """A colour for each class: the set's own, or else colour-blind-safe ones for the first 12.

    A first class called background is black, which in masks means that it is not drawn.
    """
    if palette:
        return [(int(r), int(g), int(b)) for r, g, b in palette]
    background = classes[0].lower() == "background"
    colors = [BLACK] if background else []
    for i in range(len(classes) - background):
        hue, light = i * 0.618034 % 1, (0.4, 0.6, 0.8)[i % 3]
        r, g, b = colorsys.hls_to_rgb(hue, light, 0.75)
        colors.append(SAFE[i] if i < len(SAFE) else (round(255 * r), round(255 * g), round(255 * b)))
    return colors


# --- on one image ----------------------------------------------------------------------------------


def draw_mask(
    image: np.ndarray, mask: np.ndarray, colors: Sequence[Color], opacity: float = 0.6
) -> np.ndarray:
    """Tints the pixels of every class ``[H, W]`` and outlines its regions; 255 is striped, black left out.

    What is tinted loses its own colour, so that a class looks the same on everything.
    """
    table = np.full((256, 3), WHITE, np.float32)
    table[: len(colors)] = colors
    mask = mask.astype(np.uint8)
    shown = np.ones(256, bool)
    shown[: len(colors)] = [color != BLACK for color in colors]
    alpha = np.where(shown[mask], np.float32(opacity), np.float32(0))
    alpha[(mask == IGNORE) & _stripes(mask.shape)] = 0.15
    kernel = np.ones((3, 3), np.uint8)
    edge = cv2.erode(mask, kernel) != cv2.dilate(mask, kernel)
    alpha[edge & shown[mask] & (mask != IGNORE)] = 1
    base = np.where((alpha > 0)[..., None], (image @ LUMA)[..., None], image)
    return np.rint(base + alpha[..., None] * (table[mask] - base)).astype(np.uint8)


def draw_errors(image: np.ndarray, truth: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """Wrong pixels in one strong colour on a pale grey image; what is ignored is white and striped."""
    base = np.repeat(90 + 0.45 * (image @ LUMA)[..., None], 3, axis=2)  # far from white
    ignored = truth == IGNORE
    base[ignored] = 255
    base[ignored & _stripes(truth.shape)] = 190
    base[(truth != answer) & ~ignored] = WRONG
    return np.rint(base).astype(np.uint8)


def _stripes(shape: tuple[int, ...]) -> np.ndarray:
    """bool ``[H, W]``: every other diagonal stripe."""
    step = max(4, max(shape) // 80)
    return (np.arange(shape[0])[:, None] + np.arange(shape[1])) // step % 2 == 0


def draw_boxes(
    image: np.ndarray,
    found: dict[str, np.ndarray],
    classes: Sequence[str],
    colors: Sequence[Color],
    dashed: Sequence[bool] | np.ndarray | None = None,
) -> np.ndarray:
    """Boxes with class and, where there is one, score, some of them dashed; instance masks as a tint.

    Lines and letters grow with the image. The surest boxes are on top and choose first where their
    words stand: above, below or inside, wherever these hide no other words.
    """
    boxes, labels = np.asarray(found["boxes"], float).reshape(-1, 4), found["labels"]
    scores = found.get("scores")
    order = range(len(boxes)) if scores is None else np.argsort(-np.asarray(scores), kind="stable")
    for i in order if "masks" in found else ():
        inside = np.where(np.asarray(found["masks"][i]) > 0, labels[i], IGNORE)
        tinted = draw_mask(image, inside, colors, opacity=0.4)
        image = np.where((inside != IGNORE)[..., None], tinted, image)
    height, width = image.shape[:2]
    line = max(2, max(height, width) // 350)
    font = font_of(max(13, max(height, width) // 50))
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    corners = np.clip(np.rint(boxes), 0, [width, height, width, height]).astype(int) - [0, 0, 1, 1]
    corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2])
    for i in reversed(order):
        x0, y0, x1, y1 = map(int, corners[i])
        draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=BLACK)  # an edge on any background
        draw.rectangle((x0, y0, x1, y1), outline=colors[labels[i]], width=line)
        if dashed is not None and dashed[i]:
            _gaps(draw, (x0, y0, x1, y1), line)
    taken: list[tuple[int, int, int, int]] = []
    for i in order:
        words = classes[labels[i]] if scores is None else f"{classes[labels[i]]} {scores[i]:.2f}"
        w, h = round(font.getlength(words)) + 4, sum(font.getmetrics())
        place = _place(tuple(map(int, corners[i])), w, h, width, height, taken)
        taken.append(place)
        draw.rectangle(place, fill=colors[labels[i]])
        draw.text((place[0] + 2, place[1]), words, _readable_on(colors[labels[i]]), font)
    return np.asarray(canvas)


def _gaps(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], line: int) -> None:
    """Black gaps in an outline of this width."""
    x0, y0, x1, y1 = box
    dash, last = 4 * line, line - 1
    for x in range(x0 + dash, x1, 2 * dash):
        end = min(x + dash - 1, x1)
        draw.rectangle((x, y0, end, min(y0 + last, y1)), fill=BLACK)
        draw.rectangle((x, max(y1 - last, y0), end, y1), fill=BLACK)
    for y in range(y0 + dash, y1, 2 * dash):
        end = min(y + dash - 1, y1)
        draw.rectangle((x0, y, min(x0 + last, x1), end), fill=BLACK)
        draw.rectangle((max(x1 - last, x0), y, x1, end), fill=BLACK)


def _place(
    box: tuple[int, ...], w: int, h: int, width: int, height: int, taken: list[tuple[int, int, int, int]]
) -> tuple[int, int, int, int]:
    """Where words of w x h stand: inside the image, and hiding as little of others as can be."""
    x0, y0, x1, y1 = box
    spots = [(x0, y0 - h), (x0, y1 + 1), (x1 - w, y0 - h), (x1 - w, y1 + 1), (x0, y0), (x0, y1 - h)]

    def inside(spot: tuple[int, int]) -> tuple[int, int, int, int]:
        x, y = max(0, min(spot[0], width - w - 1)), max(0, min(spot[1], height - h - 1))
        return x, y, x + w, y + h

    def hidden(place: tuple[int, int, int, int]) -> int:
        area = 0
        for other in taken:
            across = min(place[2], other[2]) - max(place[0], other[0])
            down = min(place[3], other[3]) - max(place[1], other[1])
            area += max(0, across) * max(0, down)
        return area

    return min(map(inside, spots), key=hidden)


def sure(found: dict[str, np.ndarray], least: float) -> dict[str, np.ndarray]:
    """The detections with a score of ``least`` or more."""
    kept = np.asarray(found["scores"]) >= least
    return {key: np.asarray(values)[kept] for key, values in found.items()}


def overlay(
    example: Example, target: str, classes: Sequence[str], palette: Sequence[Color] | None = None
) -> np.ndarray:
    """The answer (``mask`` or ``boxes``) drawn on its image, small images magnified; masks with a legend."""
    colors = class_colors(classes, palette)
    example = sized(example, target, OVERLAY, None)
    if target == "boxes":
        return draw_boxes(example.image, example.answer, classes, colors)
    picture = draw_mask(example.image, example.answer, colors)
    return stack([picture, legend([example.answer], classes, colors, picture.shape[1])])


def save(picture: np.ndarray, path: str | Path) -> None:
    """Writes a PNG or JPEG, by its suffix; the folder is made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, quality=92, compress_level=3)


def sized(example: Example, target: str, least: int, most: int | None) -> Example:
    """Magnified by a whole number until its longer side has ``least`` pixels, or reduced to ``most``."""
    height, width = example.image.shape[:2]
    long = max(height, width)
    times = float(-(-least // long)) if long < least else min(1.0, (most or long) / long)
    if times == 1:
        return example
    size = max(1, round(width * times)), max(1, round(height * times))

    def resized(array: np.ndarray, how: int = cv2.INTER_NEAREST) -> np.ndarray:
        return cv2.resize(array, size, interpolation=how)

    def changed(answer: Any) -> Any:
        if answer is None or target in ("label", "labels"):
            return answer
        if target == "mask":
            return resized(np.asarray(answer).astype(np.uint8))
        grown = dict(answer, boxes=np.asarray(answer["boxes"], float).reshape(-1, 4) * times)
        if "masks" in answer:
            masks = [resized(np.asarray(mask).astype(np.uint8)) for mask in answer["masks"]]
            grown["masks"] = np.array(masks, np.uint8).reshape(-1, size[1], size[0])
        return grown

    image = resized(example.image, cv2.INTER_NEAREST if times > 1 else cv2.INTER_AREA)
    return Example(image, changed(example.truth), changed(example.answer), example.id)


def legend(
    masks: Sequence[np.ndarray],
    classes: Sequence[str],
    colors: Sequence[Color],
    width: int,
    errors: bool = False,
) -> np.ndarray:
    """A line or more with the colour and the name of each class that these masks show, and of errors."""
    present = np.unique(np.concatenate([np.unique(mask) for mask in masks]))
    entries = [(classes[i], colors[i]) for i in map(int, present) if i < len(classes) and colors[i] != BLACK]
    if IGNORE in present:
        entries.append(("ignored", WHITE))
    if errors:
        entries.append(("wrong", WRONG))
    if not entries:
        return np.empty((0, width, 3), np.uint8)
    size = max(14, min(width // 60, 24))
    font, line = font_of(size), round(1.6 * size)
    spots, x, y = [], size // 2, 0
    for name, _ in entries:
        room = round(font.getlength(name)) + 2 * size + size // 2
        if x + room > width and x > size:
            x, y = size // 2, y + line
        spots.append((x, y))
        x += room
    canvas = Image.new("RGB", (width, y + line), WHITE)
    draw = ImageDraw.Draw(canvas)
    for (name, color), (x, y) in zip(entries, spots, strict=True):
        top = y + (line - size) // 2
        draw.rectangle((x, top, x + size, top + size), fill=color, outline=GREY)
        if name == "ignored" and color == WHITE:
            for shift in range(4, 2 * size, 6):
                ends = max(0, shift - size), min(shift, size)
                draw.line((x + ends[0], top + ends[1], x + ends[1], top + ends[0]), GREY)
        draw.text((x + round(1.4 * size), y + line // 2), name, BLACK, font, anchor="lm")
    return np.asarray(canvas)


def stack(pictures: Sequence[np.ndarray], gap: int = 0, across: bool = False) -> np.ndarray:
    """From top to bottom, or from left to right, on white."""
    along, sizes = int(across), np.array([picture.shape[:2] for picture in pictures])
    size = sizes.max(0)
    size[along] = sizes[:, along].sum() + gap * (len(pictures) - 1)
    out = np.full((*size, 3), 255, np.uint8)
    start = 0
    for picture in pictures:
        room = out[:, start:] if across else out[start:]
        room[: picture.shape[0], : picture.shape[1]] = picture
        start += picture.shape[along] + gap
    return out


def _readable_on(color: Color) -> Color:
    return BLACK if np.dot(color, LUMA) > 140 else WHITE


@cache
def font_of(size: int, bold: bool = False) -> Any:
    """Matplotlib's DejaVu Sans: class names need not be English. Found without importing matplotlib."""
    spec = find_spec("matplotlib")
    folder = Path((spec.submodule_search_locations or [""])[0]) if spec else Path()
    file = folder / "mpl-data" / "fonts" / "ttf" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
    return ImageFont.truetype(file, size) if file.is_file() else ImageFont.load_default(size)
