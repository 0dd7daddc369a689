"""Several judged samples in one picture: figures/<split>_examples.png and <split>_worst.png."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from paribus.data.samples import IGNORE
from paribus.metrics.matching import wrong_and_missed
from paribus.pictures import (
    BLACK,
    GREY,
    WHITE,
    Color,
    Example,
    class_colors,
    draw_boxes,
    draw_errors,
    draw_mask,
    font_of,
    legend,
    sized,
    stack,
)

PANEL = (256, 384)  # pixels of a panel's longer side: smaller images are magnified, larger ones reduced
WIDEST = 2400  # pixels
RIGHT, WRONG = (0, 125, 90), (200, 50, 0)


def sheet(
    examples: Sequence[Example],
    target: str,
    classes: Sequence[str],
    palette: Sequence[Color] | None = None,
    title: str = "",
) -> np.ndarray:
    """One picture of all examples: masks and boxes as input, truth and prediction side by side, masks with
    their errors too, boxes that are missed or wrong (at IoU 0.5) dashed; labels as a caption, green where the
    answer is right, else red with the true one."""
    assert examples, "a sheet shows one example or more"
    colors = class_colors(classes, palette)
    if target in ("label", "labels"):
        shown = [sized(example, target, *PANEL) for example in examples]
        picture = _grid([_captioned(example, target, classes) for example in shown], min(len(shown), 4))
    else:
        cells = [_panels(example, target, classes, colors) for example in examples]
        columns = max(1, min(len(cells), WIDEST // max(cell.shape[1] for cell in cells)))
        picture = _grid(cells, columns)
    if target == "mask":
        masks = [mask for e in examples for mask in (e.truth, e.answer)]
        picture = stack([picture, legend(masks, classes, colors, picture.shape[1], errors=True)])
    if title:
        picture = stack([_text([(f"  {title}", BLACK)], picture.shape[1], size=20), picture])
    return picture


def _panels(example: Example, target: str, classes: Sequence[str], colors: Sequence[Color]) -> np.ndarray:
    """Input, truth and prediction of masks or boxes, and the errors of masks."""
    image, truth, answer, name = sized(example, target, *PANEL)
    panels = [("input", image)]
    if target == "mask":
        panels += [
            (word, draw_mask(image, mask, colors))
            for word, mask in (("truth", truth), ("prediction", answer))
        ]
        panels.append(("errors", draw_errors(image, truth, answer)))
        judged = np.asarray(example.truth) != IGNORE
        right = (np.asarray(example.answer) == example.truth)[judged]
        name += f"   {100 * right.mean():.1f} % of pixels right" if right.size else "   all ignored"
    else:
        wrong, missed = wrong_and_missed(example.answer, example.truth)
        if "masks" not in answer:  # what was not asked for would hide the image
            truth = {key: value for key, value in truth.items() if key != "masks"}
        panels += [
            ("truth; dashed: missed", draw_boxes(image, truth, classes, colors, missed)),
            ("prediction; dashed: wrong", draw_boxes(image, answer, classes, colors, wrong)),
        ]
        faulty = missed.any() or wrong.any()
        name += f"   {missed.sum()} missed, {wrong.sum()} wrong" if faulty else "   all right"
    width = image.shape[1]
    drawn = [stack([_text([(word, GREY)], width), panel]) for word, panel in panels]
    return stack([_text([(name, BLACK)], len(drawn) * width), stack(drawn, gap=6, across=True)])


def verdict(
    example: Example, target: str, classes: Sequence[str]
) -> tuple[list[tuple[str, bool | None]], bool]:
    """What a ``label`` or ``labels`` answer says, line by line with its rightness (None: the truth itself, or
    classes that are not judged), and whether the whole is right."""
    if target == "label":
        best = int(np.argmax(example.answer))
        right = best == example.truth
        said: list[tuple[str, bool | None]] = [
            (f"{classes[best]}  {100 * example.answer[best]:.0f} %", right)
        ]
        return (said if right else [*said, (f"true: {classes[int(example.truth)]}", None)]), right
    unjudged = np.isnan(np.asarray(example.truth, float))
    answer, truth = (np.asarray(example.answer) >= 0.5) & ~unjudged, np.asarray(example.truth) >= 0.5
    groups = [
        ("right", answer & truth, True),
        ("wrong", answer & ~truth, False),
        ("missed", ~answer & truth, False),
        ("not judged", unjudged, None),
    ]
    lines: list[tuple[str, bool | None]] = [
        (f"{word}: {', '.join(classes[int(i)] for i in np.flatnonzero(chosen))}", fine)
        for word, chosen, fine in groups
        if chosen.any()
    ]
    if not (answer | truth | unjudged.all()).any():
        lines.insert(0, ("none, rightly", True))
    return lines, bool((answer == truth).all())


def _captioned(example: Example, target: str, classes: Sequence[str]) -> np.ndarray:
    lines, right = verdict(example, target, classes)
    image = _framed(example.image, 4, RIGHT if right else WRONG)
    colors = {True: RIGHT, False: WRONG, None: BLACK}
    words = _text([(line, colors[fine]) for line, fine in lines], image.shape[1])
    return stack([image, words, _text([(example.id, GREY)], image.shape[1], size=12)])


def _text(lines: Sequence[tuple[str, Color]], width: int, size: int = 15) -> np.ndarray:
    """Lines of words on white, ``width`` pixels wide, shortened to fit."""
    font, height = font_of(size), round(1.35 * size)
    canvas = Image.new("RGB", (width, height * len(lines)), WHITE)
    draw = ImageDraw.Draw(canvas)
    for row, (words, color) in enumerate(lines):
        if font.getlength(words) > width - 4:
            while len(words) > 1 and font.getlength(words + "…") > width - 4:
                words = words[:-1]
            words += "…"
        draw.text((2, round((row + 0.5) * height)), words, color, font, anchor="lm")
    return np.asarray(canvas)


def _grid(cells: Sequence[np.ndarray], columns: int, gap: int = 14) -> np.ndarray:
    rows = [stack(cells[i : i + columns], gap, across=True) for i in range(0, len(cells), columns)]
    return _framed(stack(rows, gap), gap // 2, WHITE)


def _framed(picture: np.ndarray, pixels: int, color: Color) -> np.ndarray:
    height, width = picture.shape[:2]
    out = np.full((height + 2 * pixels, width + 2 * pixels, 3), color, np.uint8)
    out[pixels : pixels + height, pixels : pixels + width] = picture
    return out
