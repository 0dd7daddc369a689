"""A profile as it is read: text, Markdown and CSV, with the units said below."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paribus.results import write_text
from paribus.tables import csv_text, markdown_table

if TYPE_CHECKING:
    from paribus.profile.complexity import Layer
    from paribus.profile.run import Profile

Table = tuple[list[str], list[list[str]]]  # header, rows
MB = 2**20
WORDS = ("layer", "kind", "network")  # columns of words, the others are of numbers
GROUPS = {"transposed conv": "conv"}  # kinds that count as one in the shares
TRAINING = ("parameters", "gradients", "states", "activations", "activation_gradients")


def page(profiles: "Sequence[Profile]", form: str) -> str:
    """What is printed: of one network its layers, of several their comparison; as text, markdown or csv."""
    several = len(profiles) > 1
    if form == "csv":
        return networks_csv(profiles) if several else layers_csv(profiles)
    tables = [comparison(profiles)] if several else [layer_table(profiles[0]), shares(profiles[0])]
    written = [_markdown(table) if form == "markdown" else _text(table) for table in tables]
    said = [textwrap.fill(note, 110) if form == "text" else f"- {note}" for note in notes(profiles)]
    return "\n\n".join([*written, "\n".join(said)]) + "\n"


def write(profiles: "Sequence[Profile]", folder: Path) -> Path:
    """profile.md, layers.csv, networks.csv, figure.png and figure.svg, into ``folder``."""
    from paribus.profile.figures import layers_figure, shares_figure

    folder.mkdir(parents=True, exist_ok=True)
    parts = ["# " + ", ".join(profile.name for profile in profiles)]
    if len(profiles) > 1:
        parts += [_markdown(comparison(profiles))]
    parts += [
        "![Memory, parameters and multiply-adds](figure.png)",
        "\n".join(f"- {n}" for n in notes(profiles)),
    ]
    for profile in profiles:
        parts += [f"## {profile.name}", _markdown(layer_table(profile)), _markdown(shares(profile))]
    write_text(folder / "profile.md", "\n\n".join(parts) + "\n")
    write_text(folder / "layers.csv", layers_csv(profiles))
    write_text(folder / "networks.csv", networks_csv(profiles))
    figure = shares_figure(profiles) if len(profiles) > 1 else layers_figure(profiles[0])
    figure.savefig(folder / "figure.svg", metadata={"Date": None})
    figure.savefig(folder / "figure.png", dpi=200)
    return folder


# --- tables ----------------------------------------------------------------------------------------


def layer_table(profile: "Profile") -> Table:
    """A row for each layer, and their sum."""
    layers = profile.layers
    rare = [key for key in ("groups", "dilation") if any(_several(getattr(layer, key)) for layer in layers)]
    header = [
        "layer",
        "kind",
        "kernel",
        "stride",
        "pad",
        *rare,
        "output",
        "field",
        "KB",
        "parameters",
        "MMAC",
    ]
    rows = []
    for layer in layers:
        place = [_cells(layer.kernel), _cells(layer.stride), _cells(layer.padding)]
        place += [_cells(value) if _several(value := getattr(layer, key)) else "" for key in rare]
        output = " x ".join(map(str, layer.output))
        rows.append([layer.name, layer.kind, *place, output, _field(layer), *_costs(layer)])
    until = f" until {profile.until}" if profile.until else ""
    rows.append([f"total{until}", *[""] * (len(header) - 4), *_costs(profile)])
    return header, rows


def shares(profile: "Profile") -> Table:
    """What each kind of layer has of the whole."""
    header = ["kind", "layers", "KB", "%", "parameters", "%", "MMAC", "%"]
    rows = []
    for kind, layers in by_kind(profile).items():
        row = [kind, str(len(layers))]
        for key, cell in zip(("memory", "parameters", "macs"), _costs(_Sum(layers)), strict=True):
            whole = getattr(profile, key)
            share = getattr(_Sum(layers), key) / whole if whole else 0
            row += [cell, f"{100 * share:.1f}"]
        rows.append(row)
    return header, rows


def by_kind(profile: "Profile") -> dict[str, "list[Layer]"]:
    """The layers of each kind, in the order in which the kinds come first."""
    found: dict[str, list[Layer]] = {}
    for layer in profile.layers:
        found.setdefault(GROUPS.get(layer.kind, layer.kind), []).append(layer)
    return found


def comparison(profiles: "Sequence[Profile]") -> Table:
    """A row for each network."""
    header = ["network", "input", "parameters", "GMAC", "activations MB"]
    trained = all(profile.training for profile in profiles)
    header += ["training MB"] * trained
    if all(profile.measured for profile in profiles):
        header += ["forward images/s", "MB", "training images/s", "MB"]
    rows = []
    for profile in profiles:
        until = f" until {profile.until}" if profile.until else ""
        row = [profile.name + until, "{} x {}".format(*profile.size), f"{profile.parameters:,}"]
        row += [f"{profile.macs / 1e9:,.3f}", f"{profile.memory / MB:,.1f}"]
        row += [f"{profile.training.total / MB:,.1f}"] if trained and profile.training else []
        for one in profile.measured or ():
            row += [f"{one.images_per_second:,.1f}", "" if one.peak is None else f"{one.peak / MB:,.1f}"]
        rows.append(row)
    return header, rows


def notes(profiles: "Sequence[Profile]") -> list[str]:
    """What training takes, what was measured, and the units."""
    lines, several = [], len(profiles) > 1
    for profile in profiles:
        name = f"{profile.name}: " if several else ""
        if profile.training:
            parts = ("parameters", "gradients", "optimizer states", "activations", "their gradients")
            sizes = [f"{getattr(profile.training, key) / MB:,.1f}" for key in TRAINING]
            said = " + ".join(f"{part} {size}" for part, size in zip(parts, sizes, strict=True))
            states = f"{profile.states} state{'s' * (profile.states != 1)} a parameter"
            lines.append(
                f"{name}Training, batch {profile.batch_size}, {profile.optimizer} ({states}): {said} = "
                f"{profile.training.total / MB:,.1f} MB."
            )
        if profile.measured:
            lines.append(
                f"{name}Measured on {profile.device}, batch {profile.batch_size}: {_measured(profile)}."
            )
    one = profiles[0]
    lines.append(
        "One image, "
        + (f"{one.size[0]} x {one.size[1]} pixels, {one.classes} classes, " if not several else "")
        + "float32. 1 MB = 1024 KB, 1 KB = 1024 bytes. MMAC, GMAC: 10^6, 10^9 multiply-adds, each counted once, "
        "of convolutions and matrix products (FLOPs are twice as many)."
    )
    if several:
        lines.append(
            "Activations: outputs of convolutions, linear layers, poolings, norms and the like, all kept."
        )
    else:
        lines.append(
            "KB: the output, kept. Output: C x H x W. Field: receptive field in pixels; -: the whole image, or "
            "what attention mixes. Parameters: in the layer that uses them first."
        )
    if any(profile.training for profile in profiles):
        lines.append(
            "Training memory: float32; activations are what autograd keeps for the backward pass, images "
            "included, their gradients the most of them at once; without the loss and workspaces."
        )
    if any(profile.measured for profile in profiles):
        lines.append(
            "Measured: median pass after two to warm up; peak of what torch allocates, on a processor without "
            "what its libraries take for themselves."
        )
    return lines


def _measured(profile: "Profile") -> str:
    said = []
    for name, one in zip(("forward", "training step"), profile.measured or (), strict=False):
        peak = f", at most {one.peak / MB:,.1f} MB" if one.peak is not None else ""
        said.append(f"{name} {one.images_per_second:,.1f} images/s (median of {one.repeats}){peak}")
    return "; ".join(said)


# --- for programs ----------------------------------------------------------------------------------


def layers_csv(profiles: "Sequence[Profile]") -> str:
    """Every layer of every network: bytes, exact counts; H and W apart; empty where there is no value."""
    header = [
        *("network", "layer", "kind", "kernel", "stride", "padding", "dilation", "groups", "output"),
        *("field_height", "field_width", "jump", "output_bytes", "parameters", "macs"),
    ]
    rows = []
    for profile in profiles:
        for layer in profile.layers:
            windows = [_cells(getattr(layer, key)) for key in ("kernel", "stride", "padding", "dilation")]
            local = layer.field if layer.field and math.inf not in layer.field else ("", "")
            row = [profile.name, layer.name, layer.kind, *windows, layer.groups if layer.kernel else ""]
            row += ["x".join(map(str, layer.output)), *(f"{v:g}" if v != "" else "" for v in local)]
            row += [f"{layer.jump[0]:g}" if layer.jump else "", layer.memory, layer.parameters, layer.macs]
            rows.append(row)
    return csv_text([header, *rows])


def networks_csv(profiles: "Sequence[Profile]") -> str:
    """Every network: its sums, its training memory in bytes, and what was measured."""
    header = [
        *("network", "height", "width", "classes", "until", "parameters", "macs", "activation_bytes"),
        *("batch_size", "optimizer", *(f"training_{key}_bytes" for key in (*TRAINING, "total"))),
        *("device", "forward_images_per_second", "forward_peak_bytes"),
        *("training_images_per_second", "training_peak_bytes"),
    ]
    rows = []
    for profile in profiles:
        training = [getattr(profile.training, key, "") for key in (*TRAINING, "total")]
        measured: list[Any] = [v for one in profile.measured or () for v in (one.images_per_second, one.peak)]
        row = [profile.name, *profile.size, profile.classes, profile.until]
        row += [profile.parameters, profile.macs, profile.memory, profile.batch_size, profile.optimizer]
        rows.append([*row, *training, profile.device, *(measured or [""] * 4)])
    return csv_text([header, *rows])


# --- cells -----------------------------------------------------------------------------------------


class _Sum:
    """The costs of some layers."""

    def __init__(self, layers: "Sequence[Layer]"):
        self.memory = sum(layer.memory for layer in layers)
        self.parameters = sum(layer.parameters for layer in layers)
        self.macs = sum(layer.macs for layer in layers)


def _costs(one: Any) -> list[str]:
    """KB, parameters and MMAC of a layer, a network or a sum."""
    macs = f"{one.macs / 1e6:,.3f}" if one.macs else "0"
    return [f"{one.memory / 1024:,.1f}" if one.memory else "0", f"{one.parameters:,}", macs]


def _several(value: Any) -> bool:
    return any(v != 1 for v in (value if isinstance(value, tuple) else (value,)))


def _cells(value: Any) -> str:
    """3 for (3, 3), 1x7 for (1, 7), nothing for ()."""
    if not isinstance(value, tuple):
        return str(value)
    return str(value[0]) if len(set(value)) == 1 and value else "x".join(map(str, value))


def _field(layer: "Layer") -> str:
    if not layer.field or math.inf in layer.field:
        return "-" if layer.output else ""
    return _cells(tuple(f"{side:.4g}" for side in layer.field))


def _text(table: Table) -> str:
    """The table for a terminal: words to the left, numbers to the right, the sum below a rule."""
    header, rows = table
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    left = [title in WORDS for title in header]
    lines = []
    for row in [header, *rows]:
        cells = [f"{c:<{w}}" if lft else f"{c:>{w}}" for c, w, lft in zip(row, widths, left, strict=True)]
        lines.append("  ".join(cells).rstrip())
    rule = "─" * max(map(len, lines))
    below = [rule] if rows and rows[-1][0].startswith("total") else []
    return "\n".join(
        [lines[0], rule, *(lines[1:-1] if below else lines[1:]), *below, *(lines[-1:] if below else [])]
    )


def _markdown(table: Table) -> str:
    return markdown_table(*table, left=WORDS)
