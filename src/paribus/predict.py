"""A finished run, applied to images: labels as CSV, masks as PNG, boxes as COCO JSON, and overlays."""

import glob
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from paribus import results
from paribus.build import Parts
from paribus.config import ConfigError, PredictConfig, TrainConfig
from paribus.data.files import SUFFIXES, SampleError, read_image
from paribus.data.samples import IGNORE, Sample
from paribus.restore import masks_as, one_device, restored, run_config, without_data_set
from paribus.tables import csv_text

log = logging.getLogger(__name__)

Read = tuple[np.ndarray, Sample]  # an image as it is, and as the network sees it


class UnreadableError(ValueError):
    """Some images were no images. The rest is answered and written."""


def run(cfg: DictConfig) -> Path:
    """Answers every image of ``cfg.images`` with the best checkpoint of ``cfg.run``; returns the folder
    written: ``cfg.output``, else <run>/predictions.

    An image is decoded, fitted and normalized as evaluation does it, and judged at the same precision;
    masks and boxes are mapped back to the size of the file, upright. For masks ``resize``, ``window`` and
    ``overlap`` are evaluation's too.

    label    predictions.csv: file, class, probability, and the next four classes
    labels   predictions.csv: file, and a probability for each class
    mask     masks/<name>.png, class numbers in the set's palette, 255 where the network did not look;
             overlays/<name>.png
    boxes    predictions.json, COCO's format for results (category_id is the label + 1), and images.json,
             which says what its numbers mean; overlays/<name>.jpg, without boxes of small score

    <name> is the path below the images' common folder, so that equal names in two folders stay apart.

    Raises:
        ConfigError: there is no such run, or no image.
        UnreadableError: at the end, if images were skipped because they cannot be read: a script that goes on
            with these answers must know that some are missing.
    """
    settings: PredictConfig = OmegaConf.to_object(cfg)  # type: ignore[assignment]
    folder, config = run_config(settings.run)
    output = Path(settings.output) if settings.output else folder / "predictions"
    files = find_images(settings.images, output)
    if settings.batch_size < 1:
        raise ConfigError(f"batch_size={settings.batch_size}: 1 or more")
    masks_as(config, resize=settings.resize, window=settings.window, overlap=settings.overlap)
    one_device(config, settings.accelerator)
    without_data_set(folder, config)
    parts = restored(folder, config)

    kinds: dict[str, Any] = {"label": Labels, "labels": Labels, "mask": Masks, "boxes": Boxes}
    writer = kinds[parts.data.target](output, parts.data, settings.score_threshold)
    bad = []
    for file, name, answer in _shown(answers(parts, config, files, settings.batch_size), files):
        if isinstance(answer, SampleError):
            bad.append(f"  {answer.file}: {answer.what}")
        else:
            writer.add(file, name, *answer)
    written = writer.close()
    log.info("%d images: %s", len(files) - len(bad), written)
    if bad:
        head = f"{len(bad)} of {len(files)} images cannot be read; the others are answered in {output}:"
        raise UnreadableError(
            "\n".join([head, *bad[:20], *([f"  … and {len(bad) - 20} more"] if bad[20:] else [])])
        )
    return output


def find_images(images: str, output: Path) -> list[Path]:
    """The files of a path, a folder (and those in it) or a glob; ``output`` may lie among them."""
    path = Path(images).expanduser()
    if path.is_file():
        return [path]
    matches = path.rglob("*") if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))
    own = output.absolute()
    found = [
        match
        for match in matches
        if match.suffix.lower() in SUFFIXES
        and match.is_file()
        and not match.name.startswith(".")
        and not match.absolute().is_relative_to(own)
    ]
    if not found:
        what = "holds no image" if path.is_dir() else "is no file or folder, and no image matches it"
        raise ConfigError(f"images={images} {what} (suffixes: {' '.join(SUFFIXES)})")
    return sorted(found, key=lambda file: results.natural(str(file)))


def names(files: Sequence[Path]) -> list[str]:
    """A name for each file, the path below their common folder, without the suffix where this is unique."""
    full = [os.path.abspath(file) for file in files]
    base = os.path.commonpath([os.path.dirname(file) for file in full])
    whole = [Path(os.path.relpath(file, base)).as_posix() for file in full]
    short = [os.path.splitext(name)[0] for name in whole]
    return short if len(set(short)) == len(short) else whole


def answers(
    parts: Parts, config: TrainConfig, files: Sequence[Path], batch_size: int
) -> Iterator[SampleError | tuple[np.ndarray, Any]]:
    """For each file in turn its image, uint8 RGB ``[H, W, 3]``, and the answer on it; or why there is none.

    Answers are probabilities ``[C]`` (label, labels), classes ``[H, W]`` (mask) or a dict of ``boxes``
    in pixels of the image, ``labels`` and ``scores`` (boxes).
    """
    import torch

    from paribus.data.batches import collate
    from paribus.data.proposals import only_proposals
    from paribus.data.transforms import Transform

    data, task = parts.data, parts.task
    search = data.search
    # Of the image alone, or of the proposals with it.
    fit = Transform(target="boxes" if search else "label", size=data.size, fit=data.eval_transform.fit)
    device = torch.device("cpu")
    if config.trainer.accelerator == "gpu":
        device = torch.accelerator.current_accelerator() or device
    task.to(device).eval()
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(config.trainer.precision)

    def read(file: Path) -> Read | SampleError:
        try:
            image = read_image(file)
        except SampleError as error:
            return error
        return image, fit(Sample(image, only_proposals(image, search) if search else 0, str(file)), None)

    def decide(batch: list[Read]) -> list[Any]:
        stacked, targets, _ = collate([sample for _, sample in batch])
        images = data.normalize(stacked.to(device))
        given = ([target["proposals"].to(device) for target in targets],) if search else ()
        with torch.inference_mode(), torch.autocast(device.type, half, enabled=half is not None):
            answer = task.predict(images, *given)
            if data.target != "mask":
                return [
                    _restored(one, image, data)
                    for one, (image, _) in zip(task.decide(answer), batch, strict=True)
                ]
            return [_mask(answer[i : i + 1], image, parts) for i, (image, _) in enumerate(batch)]

    together = batch_size if data.size else 1  # images of their own sizes would be padded to the largest
    chunks = [files[i : i + together] for i in range(0, len(files), together)]
    with ThreadPoolExecutor() as threads:
        ahead = threads.map(read, chunks[0])
        for i in range(len(chunks)):
            batch = list(ahead)
            if i + 1 < len(chunks):
                ahead = threads.map(read, chunks[i + 1])  # while the network is at work
            readable = [item for item in batch if not isinstance(item, SampleError)]
            decisions = iter(decide(readable) if readable else ())
            for item in batch:
                yield item if isinstance(item, SampleError) else (item[0], next(decisions))


def _mask(logits: Any, image: np.ndarray, parts: Parts) -> np.ndarray:
    """Classes ``[H, W]`` of the image that the file holds, decided at its size; 255 where nobody looked."""
    size, transform = (image.shape[0], image.shape[1]), parts.data.eval_transform
    mask = parts.task.decide(transform.restore_logits(logits, size))[0].cpu().numpy().astype(np.uint8)
    mask[transform.unseen(size)] = IGNORE
    return mask


def _restored(decision: Any, image: np.ndarray, data: Any) -> Any:
    """Probabilities; or boxes on the image that the network saw, as those on the image that the file holds."""
    from paribus.examples import probabilities

    if data.target in ("label", "labels"):
        return probabilities(decision, data.target).cpu().numpy()
    found = {key: decision[key].cpu() for key in ("boxes", "labels", "scores")}
    size = (image.shape[0], image.shape[1])
    boxes = data.eval_transform.restore_boxes(found["boxes"].float().numpy(), size)
    return {"boxes": boxes, "labels": found["labels"].numpy(), "scores": found["scores"].float().numpy()}


def _shown(found: Iterator[Any], files: Sequence[Path]) -> Iterator[tuple[Path, str, Any]]:
    """The same with a file and a name to each, and a bar that moves."""
    from rich.console import Console
    from rich.progress import track

    console = Console(file=sys.stdout)
    rows = zip(files, names(files), found, strict=True)
    yield from track(
        rows, "predicting", len(files), console=console, transient=True, disable=not console.is_terminal
    )


# --- what is written -------------------------------------------------------------------------------


class Labels:
    """predictions.csv."""

    def __init__(self, output: Path, data: Any, threshold: float):
        self.path, self.classes, self.single = (
            output / "predictions.csv",
            data.classes,
            data.target == "label",
        )
        self.best = min(5, len(self.classes))
        later = [f"{column}_{i}" for i in range(2, self.best + 1) for column in ("class", "probability")]
        self.rows: list[list[str]] = [
            ["file", "class", "probability", *later] if self.single else ["file", *self.classes]
        ]

    def add(self, file: Path, name: str, image: np.ndarray, answer: np.ndarray) -> None:
        row = [str(file)]
        if self.single:
            for i in np.argsort(-answer, kind="stable")[: self.best]:
                row += [self.classes[i], f"{answer[i]:.6f}"]
        else:
            row += [f"{probability:.6f}" for probability in answer]
        self.rows.append(row)

    def close(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(self.path, csv_text(self.rows))
        return self.path


class Masks:
    """masks/*.png and overlays/*.png."""

    def __init__(self, output: Path, data: Any, threshold: float):
        from paribus.pictures import class_colors

        self.output, self.data = output, data
        table = np.zeros((256, 3), np.uint8)
        colors = class_colors(data.classes, data.reader.palette)
        table[: len(colors)] = colors
        table[IGNORE] = 255
        self.palette = table.ravel().tolist()

    def add(self, file: Path, name: str, image: np.ndarray, answer: np.ndarray) -> None:
        from PIL import Image

        from paribus.pictures import Example, overlay, save

        path = self.output / "masks" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = Image.fromarray(answer).convert("L")
        mask.putpalette(self.palette)
        mask.save(path)
        drawn = overlay(
            Example(image, None, answer, name), "mask", self.data.classes, self.data.reader.palette
        )
        save(drawn, self.output / "overlays" / f"{name}.png")

    def close(self) -> Path:
        return self.output / "masks"


class Boxes:
    """predictions.json, images.json and overlays/*.jpg."""

    def __init__(self, output: Path, data: Any, threshold: float):
        self.output, self.data, self.threshold = output, data, threshold
        self.found: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []

    def add(self, file: Path, name: str, image: np.ndarray, answer: dict[str, np.ndarray]) -> None:
        from paribus.pictures import Example, overlay, save, sure

        number, (height, width) = len(self.images) + 1, image.shape[:2]
        self.images.append({"id": number, "file_name": str(file), "width": width, "height": height})
        for (x0, y0, x1, y1), label, score in zip(
            answer["boxes"].astype(float), answer["labels"], answer["scores"], strict=True
        ):
            box = [round(value, 4) for value in (x0, y0, x1 - x0, y1 - y0)]
            self.found.append(
                {"image_id": number, "category_id": int(label) + 1, "bbox": box, "score": float(score)}
            )
        example = Example(image, None, sure(answer, self.threshold), name)
        drawn = overlay(example, "boxes", self.data.classes, self.data.reader.palette)
        save(drawn, self.output / "overlays" / f"{name}.jpg")

    def close(self) -> Path:
        self.output.mkdir(parents=True, exist_ok=True)
        categories = [{"id": i, "name": name} for i, name in enumerate(self.data.classes, start=1)]
        results.write_json(self.output / "images.json", {"images": self.images, "categories": categories})
        path = self.output / "predictions.json"
        results.write_json(path, self.found)
        return path
