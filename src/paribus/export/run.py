"""The command: a finished run in; programs, weights and their description out, each compared with the network."""

import json
import logging
import os
import shutil
from importlib import metadata, util
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from paribus import results
from paribus.build import Parts
from paribus.config import ConfigError, ExportConfig, TrainConfig
from paribus.contradictions import TASKS
from paribus.restore import one_device, restored, run_config, without_data_set
from paribus.train import CHECKPOINT

log = logging.getLogger(__name__)

EXTRA = "pip install -e .[export]"
PACKAGES = ("onnx", "onnxscript", "onnxruntime", "safetensors")
FILES = ("model.onnx", "model.onnx.data", "model.pt2", "model.safetensors", "anchors.npy", "model.json")


def run(config: ExportConfig) -> Path:
    """Writes the network of ``config.run``, with the weights of its best checkpoint, as programs that need no
    Paribus; returns the folder: ``config.output``, else <run>/export.

    model.onnx         by torch's exporter; with more than 2 GB of weights these lie in model.onnx.data
    model.pt2          of torch.export
    model.safetensors  the weights by the network's names, where that package is installed
    anchors.npy        of detectors that have some
    model.json         what the programs take and answer, and how far they are from the network

    All of it or nothing: what is written is read again, asked, and compared with the network, before it takes the
    place of an earlier export.

    Raises:
        ConfigError: there is no such run, it has not finished an epoch, or a package is missing.
        ExportError: the network is no plain tensor program, or a program answers otherwise than the network.
    """
    _need_onnx(config.format)
    folder, trained = run_config(config.run)
    output = Path(config.output) if config.output else folder / "export"
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output={output} is a file, and a folder is written")
    one_device(trained, "cpu")
    without_data_set(folder, trained)
    trained.trainer.channels_last = False
    parts = restored(folder, trained)
    _refuse(parts.task.model)
    output.parent.mkdir(parents=True, exist_ok=True)
    part = Path(mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        described = _written(part, config.format, parts, trained)
        described["run"] = _origin(folder)
        described["export"] = results.environment() | {"finished": results.utc_now()}
        described["export"]["versions"] |= {
            name: metadata.version(name) for name in PACKAGES if _installed(name)
        }
        results.write_json(part / "model.json", described)
        output.mkdir(exist_ok=True)
        # It comes last, and so never describes another export's files.
        (output / "model.json").unlink(missing_ok=True)
        for name in FILES:
            if (part / name).exists():
                os.replace(part / name, output / name)
            else:
                (output / name).unlink(missing_ok=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for name, found in described["files"].items():
        gap = found.get("largest_difference_of_range")
        said = found["compared"] if gap is None else f"{gap:.1g} of the range from the network at most"
        log.info("%s: %s", output / name, said)
    return output


def _installed(package: str) -> bool:
    return util.find_spec(package) is not None


def _need_onnx(format: str) -> None:
    missing = [name for name in ("onnx", "onnxscript") if not _installed(name)]
    if missing and format != "torch":
        raise ConfigError(
            f"format={format} needs {' and '.join(missing)}, not installed here: {EXTRA}; or format=torch"
        )


def _refuse(model: Any) -> None:
    """ExportError for what is no plain tensor program, with the operator that it is not one for."""
    from paribus.export.program import ExportError

    name = type(model).__name__
    if hasattr(model, "fit"):
        raise ExportError(
            f"{name} cannot be exported: it runs in NumPy and SciPy (scipy.spatial.distance.cdist)"
        )
    if hasattr(model, "box_head"):
        raise ExportError(
            f"{name} cannot be exported: its box head sees regions cut out by torchvision::roi_align or "
            "torchvision::roi_pool, and how many depends on the image (torchvision::nms); detectors of one stage "
            "can (model=retinanet, fcos, ssd, yolo, yolo_2015)"
        )


def _written(part: Path, format: str, parts: Parts, trained: TrainConfig) -> dict[str, Any]:
    """Writes and compares all but the description, which it returns."""
    import numpy as np
    import torch

    from paribus.export import program, words

    data, model, target = parts.data, parts.task.model.eval(), parts.data.target
    network = program.asked(model)

    def original(images: torch.Tensor) -> list[torch.Tensor]:
        return program.outputs(network(data.normalize(images)))

    traced = program.traced(
        model,
        size=data.size,
        free=target == "mask" or data.size is None,
        original=original,
        mean=data.mean,
        scale=data.scale,
        gray=data.channels == 1,
        cropped=target == "mask",
    )
    with torch.inference_mode():
        image = data.normalize(torch.zeros(1, 3, *traced.tested[0][1:], dtype=torch.uint8))
        answer = network(image)
        anchors = model.anchors(model.see(image))[0] if hasattr(model, "anchors") else None
    names = list(answer) if isinstance(answer, dict) else words.NAMES.get(type(model).__name__, ["logits"])
    files = _compared(part, format, names, traced, original)
    if _installed("safetensors"):
        files["model.safetensors"] = _weights(part / "model.safetensors", model, trained, data)
    if anchors is not None and traced.least is None:
        np.save(part / "anchors.npy", anchors.float().numpy())
        files["anchors.npy"] = {"shape": [*anchors.shape], "compared": "the network's own"}
    outputs = zip(names, program.outputs(answer), strict=True)
    described = words.described(
        data=data,
        model=model,
        task=TASKS[target],
        config=trained.model,
        window=trained.task.get("window"),
        outputs={name: words.shape(output.shape, target, traced.least) for name, output in outputs},
        least=traced.least,
        why=traced.why,
    )
    return described | {"files": files}


def _compared(
    part: Path, format: str, names: list[str], traced: Any, original: Any
) -> dict[str, dict[str, Any]]:
    """Writes the programs that are wanted; of each how far it is from the network."""
    from paribus.export import program

    files: dict[str, dict[str, Any]] = {}
    for name, kind, write, read in (
        ("model.onnx", "onnx", program.write_onnx, program.onnx_answers),
        ("model.pt2", "torch", program.write_torch, program.torch_answers),
    ):
        if format not in (kind, "both"):
            continue
        write(traced, part / name, names)
        files[name] = {"opset": program.OPSET} if kind == "onnx" else {}
        if kind == "onnx" and not _installed("onnxruntime"):
            files[name]["compared"] = f"not compared: onnxruntime is not installed ({EXTRA})"
            continue
        gap = program.difference(read(part / name), original, traced.tested)
        if not gap.of_range <= program.LIMIT:
            raise program.ExportError(
                f"{name} answers otherwise than the network: by {gap.absolute:.3g}, {gap.of_range:.3g} of the range "
                f"of its answers, where {program.LIMIT:g} is allowed; nothing is written"
            )
        files[name] |= {
            "largest_difference": gap.absolute,
            "largest_difference_of_range": gap.of_range,
            "compared": "on random images, [batch, height, width] "
            + ", ".join(str([*s]) for s in traced.tested),
        }
    return files


def _weights(path: Path, model: Any, trained: TrainConfig, data: Any) -> dict[str, Any]:
    """Writes the network's tensors by its own names, which backbone.weights reads."""
    import torch
    from safetensors.torch import load_file, save

    tensors = {name: value.detach().contiguous().clone() for name, value in model.state_dict().items()}
    said = {
        "task": TASKS[data.target],
        "classes": data.classes,
        "backbone": trained.backbone,
        "model": trained.model,
        "mean": (data.mean.flatten() / 255).tolist(),
        "std": (1 / (255 * data.scale.flatten())).tolist(),
    }
    # Not save_file, whose file no one else may read.
    path.write_bytes(
        save(tensors, {"format": "pt"} | {key: json.dumps(value) for key, value in said.items()})
    )
    read = load_file(path)
    if read.keys() != tensors.keys() or not all(torch.equal(read[name], tensors[name]) for name in read):
        raise OSError(f"{path}: what was written is not what is read")
    return {"tensors": len(read), "compared": "equal to the network's, bit for bit"}


def _origin(folder: Path) -> dict[str, Any]:
    """Where the weights come from."""
    found = results.Run.read(folder)
    keys = ("commit", "dirty", "versions", "finished", "best_epoch", "metrics")
    return {
        "folder": str(folder),
        "name": found.name,
        "job": found.job,
        "seed": found.seed,
        "status": found.status,
        "checkpoint": str(CHECKPOINT),
        "judged_in": f"{found.config['trainer']['precision']}; the programs compute in float32",
        **{key: found.result.get(key) for key in keys},
    }
