"""A network as one plain tensor program: traced, written, read again, and compared with what it came from."""

import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

OPSET = 18  # that torch's own translations are written for
LIMIT = 1e-4  # largest difference to the network itself, as a share of the range of its answers
ONE_FILE = 2**31 - 2**27  # bytes of weights: protobuf holds no message of 2 GiB

Shape = tuple[int, int, int]  # images, height, width
Answer = Callable[[Tensor], list[Tensor]]  # images uint8 [B, 3, H, W] -> outputs in their order


class ExportError(ValueError):
    """The network is no program that the format can hold, or the program answers otherwise than the network."""


class Program(nn.Module):
    """images uint8 [B, 3, H, W] -> the network's logits; of a detector what its heads say, see its `raw`.

    The data's normalization is in it. mean, scale: of pixels from 0 to 255, the scale is multiplied. gray: the
    network sees the mean of the three channels.

    multiple: images are padded here, at the bottom and at the right, with what is 0 after normalization, and answers
        as large as the images are cropped (`cropped`): a network that pads by itself asks whether it has to, and a
        program for every size cannot hold the question. 1: neither.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, *, model: nn.Module, mean: Tensor, scale: Tensor, gray: bool, multiple: int, cropped: bool
    ):
        super().__init__()
        self.model = model
        self.gray, self.multiple, self.cropped = gray, multiple, cropped
        # Without the first of [1, C, 1, 1]: where C is 1 too, ONNX's shapes would take the batch for 1.
        self.register_buffer("mean", mean[0].clone())
        self.register_buffer("scale", scale[0].clone())

    def forward(self, images: Tensor) -> Any:
        height, width = images.shape[-2:]
        x = images.to(torch.float32)
        if self.gray:
            x = x.mean(1, keepdim=True)
        x = (x - self.mean) * self.scale
        if self.multiple > 1:
            # In this form the exporter can see that the multiple divides the sum.
            down, across = (
                self.multiple * ((n + self.multiple - 1) // self.multiple) - n for n in (height, width)
            )
            x = F.pad(x, (0, across, 0, down))
        answer = asked(self.model)(x)
        if self.multiple > 1 and self.cropped:
            # A slice would leave the exporter to prove that it is not longer than what it is cut from.
            rows, columns = (torch.arange(n, device=x.device) for n in (height, width))
            answer = answer.index_select(2, rows).index_select(3, columns)
        return answer


def asked(model: Any) -> Any:
    """What is exported of a network: all; of a detector what comes before boxes are decoded and selected."""
    return getattr(model, "raw", model)


def outputs(answer: Any) -> list[Tensor]:
    """Those of a network, or of a program, in their order."""
    if isinstance(answer, dict):
        return list(answer.values())
    return [answer] if isinstance(answer, Tensor) else list(answer)


class Traced(NamedTuple):
    """exported: takes any number of images. shapes: its dynamic sides, by the name of the input. least: pixels of
    the shortest height or width that it takes; None: the height and width are fixed, for the reason `why`. tested:
    the shapes at which it is compared.
    """

    exported: ExportedProgram
    shapes: dict[str, Any]
    least: int | None
    why: str | None
    tested: list[Shape]


def traced(
    model: Any, *, size: tuple[int, int] | None, free: bool, original: Answer, **program: Any
) -> Traced:
    """The program of a network, for images of every size if that is wanted (`free`) and can be.

    size: (H, W) of the run. original: the network itself. program: see Program.

    Raises ExportError, which names the operator where the exporter does.
    """
    strides = model.backbone.strides
    stride, why = max(strides), None
    height, width = size or (4 * stride, 5 * stride)
    least, batch = stride + 1, Dim("batch")
    if free and min(height, width) < least:
        free, why = False, f"images of {height} x {width} are smaller than a cell of {stride} pixels"
    if free:
        shapes = {"images": {0: batch, 2: Dim("height", min=least), 3: Dim("width", min=least)}}
        tested = [(1, height, width), (3, height + 1, width + 3), (2, least, 2 * least + 1)]
        # How a network pads is its own affair: the first padding that changes no answer is the network's.
        for multiple in dict.fromkeys([stride, min(strides), 1]):
            whole = Program(model=model, multiple=multiple, **program)
            try:
                exported = _exported(whole, (2, height, width), shapes)
            except ExportError as error:
                why = why or str(error)
                continue
            if difference(called(exported), original, tested).of_range <= LIMIT:
                return Traced(exported, shapes, least, None, tested)
            why = "the network pads images in a way that depends on their size"
    if size is None:
        raise ExportError(
            f"the run has no size (data.size=null), and a program for all sizes cannot be made: {why}"
        )
    shapes = {"images": {0: batch}}
    whole = Program(model=model, multiple=1, **program)
    exported = _exported(whole, (2, height, width), shapes)
    return Traced(exported, shapes, None, why, [(1, height, width), (3, height, width)])


def _exported(whole: nn.Module, shape: Shape, shapes: dict[str, Any]) -> ExportedProgram:
    images = torch.zeros(shape[0], 3, *shape[1:], dtype=torch.uint8)
    whole.requires_grad_(False)  # or every use of the program would prepare for a gradient
    try:
        with torch.no_grad(), _quiet():
            exported = torch.export.export(whole, (images,), dynamic_shapes=shapes)
    except Exception as error:  # many kinds
        raise ExportError(f"torch.export cannot trace it: {_reason(error)}") from error
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return exported


def write_torch(found: Traced, path: Path, names: Sequence[str]) -> None:
    with _quiet():
        torch.export.save(found.exported, path)


def write_onnx(found: Traced, path: Path, names: Sequence[str]) -> None:
    """names: of the outputs. Weights of more than 2 GB lie in a second file beside it, <path>.data.

    Raises ExportError, which names the operator that ONNX has no form of.
    """
    exported = found.exported
    images = torch.zeros(2, 3, *found.tested[0][1:], dtype=torch.uint8)
    try:
        with _quiet():
            made: Any = torch.onnx.export(
                exported,
                (images,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=list(names),
                dynamic_shapes=found.shapes,  # for the names of the sides
                verbose=False,
            )
            for node in made.model.graph.all_nodes():
                node.metadata_props.clear()  # where in torch it comes from: half of a small file
            weights = sum(t.numel() * t.element_size() for t in exported.state_dict.values())
            made.save(path, external_data=weights > ONE_FILE)
    except Exception as error:  # many kinds
        raise ExportError(f"ONNX (opset {OPSET}) cannot hold it: {_reason(error)}") from error


def torch_answers(path: Path) -> Answer:
    """Of a written program."""
    return called(torch.export.load(path))


def onnx_answers(path: Path) -> Answer:
    """Of a written program, by onnxruntime on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # else a thread for every core
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: [torch.from_numpy(a) for a in session.run(None, {"images": images.numpy()})]


def called(exported: ExportedProgram) -> Answer:
    """Of a program in memory."""
    module = exported.module()
    return lambda images: outputs(module(images))


class Difference(NamedTuple):
    """The largest of all outputs, in their own unit; as a share of an output's range, largest less smallest value."""

    absolute: float
    of_range: float


def difference(program: Answer, original: Answer, shapes: Sequence[Shape]) -> Difference:
    """On random images of each shape. What is not finite is infinitely far from everything, as is another shape."""
    generator = torch.Generator().manual_seed(0)
    gaps: dict[int, float] = {}
    least: dict[int, float] = {}
    most: dict[int, float] = {}
    for count, height, width in shapes:
        images = torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)
        with torch.inference_mode():
            pairs = zip(program(images), original(images), strict=True)
            for i, (mine, truth) in enumerate(pairs):
                same = mine.shape == truth.shape
                gap = float((mine.double() - truth.double()).abs().max()) if same else math.inf
                gaps[i] = max(gaps.get(i, 0.0), gap if math.isfinite(gap) else math.inf)
                least[i] = min(least.get(i, math.inf), float(truth.min()))
                most[i] = max(most.get(i, -math.inf), float(truth.max()))
    shares = [gap / max(most[i] - least[i], 1e-12) for i, gap in gaps.items()]
    return Difference(max(gaps.values()), max(shares))


def _reason(error: BaseException) -> str:
    """What an exporter says first, in our words for the sides, and the operator that it names."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    text = "\n".join(map(str, chain))
    lines = [line.strip() for line in str(chain[-1]).splitlines() if line.strip()]
    said = lines[0] if lines else type(error).__name__
    if said.startswith("Constraints violated") and len(lines) > 1:
        said = lines[1].removeprefix("- ").replace(" in the specified range", "")
    for side, place in (("batch", 0), ("height", 2), ("width", 3)):
        said = said.replace(f"{side} = L['images'].size()[{place}]", side)
        said = said.replace(f"L['images'].size()[{place}]", side)
    found = re.search(r"torch\.ops\.(\w+)\.(\w+)|\b(aten|torchvision|prims)(?:::|\.)(\w+)", text)
    operator = "::".join(part for part in found.groups() if part) if found else ""
    return f"operator {operator}: {said[:300]}" if operator else said[:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters' warnings are of their own insides."""
    loggers = [
        logging.getLogger(name)
        for name in ("torch.onnx", "torch.export", "torch._subclasses", "onnxscript", "onnx_ir")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
