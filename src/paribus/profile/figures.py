"""The pictures of a profile: what networks cost. Drawn without pyplot, as those of reports."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from paribus.report.figures import GREY, PALE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from paribus.profile.complexity import Layer
    from paribus.profile.run import Profile

KINDS = {
    "conv": ("#0072B2", "convolution"),
    "linear": ("#D55E00", "linear"),
    "attention": ("#CC79A7", "attention"),
    "norm": ("#009E73", "norm"),
    "pool": ("#E69F00", "pooling"),
    "upsample": ("#56B4E9", "enlarging"),
    "other": ("#999999", "other"),
}
COSTS = {  # of a layer or a network: title, unit of one layer, unit of a network
    "memory": ("Memory of the outputs", (2**10, "KB"), (2**20, "MB")),
    "parameters": ("Parameters", (1e3, "thousand"), (1e6, "M")),
    "macs": ("Multiply-adds", (1e6, "M"), (1e9, "G")),
}
MOST_NAMES = 48  # layers that are named under their bars


def shares_figure(profiles: "Sequence[Profile]") -> "Figure":
    """For memory, parameters and multiply-adds a bar a network, of 100 %, by kinds of layers; the network's
    sum at its end."""
    from matplotlib.figure import Figure

    names = [profile.name for profile in profiles]
    left, right, gap, bottom, top = 0.3 + 0.085 * max(map(len, names)), 0.9, 1.0, 0.4, 0.8
    panel = 2.9
    width, height = left + 3 * panel + 2 * gap + right, top + bottom + 0.42 * len(profiles)
    figure = Figure(figsize=(width, height), facecolor="white")
    shown: set[str] = set()
    for place, (key, (title, _, (factor, unit))) in enumerate(COSTS.items()):
        x = left + place * (panel + gap)
        inside = (x / width, bottom / height, panel / width, 1 - (top + bottom) / height)
        axes = figure.add_axes(inside)
        for row, profile in enumerate(profiles):
            whole, start = sum(getattr(layer, key) for layer in profile.layers), 0.0
            for kind in KINDS:
                part = sum(getattr(layer, key) for layer in profile.layers if _kind(layer) == kind)
                share = 100 * part / whole if whole else 0
                if share:
                    axes.barh(
                        row, share, 0.66, left=start, color=KINDS[kind][0], edgecolor="white", linewidth=0.8
                    )
                    shown.add(kind)
                if share >= 9:
                    x = start + share / 2
                    axes.text(x, row, f"{share:.0f}", ha="center", va="center", fontsize=8.5, color="white")
                start += share
            amount = whole / factor
            said = f"{amount:,.0f}" if amount >= 100 else f"{amount:#.3g}"
            axes.annotate(
                f"{said} {unit}", (100, row), (5, 0), textcoords="offset points", va="center", fontsize=9
            )
        axes.set_title(f"{title}, %", fontsize=10.5, loc="left", pad=6)
        axes.set_xlim(0, 100)
        axes.set_ylim(len(profiles) - 0.5, -0.5)
        axes.set_yticks(range(len(names)), names if place == 0 else [""] * len(names), fontsize=10)
        axes.set_xticks([0, 25, 50, 75, 100])
        _plain(axes)
    _legend(figure, [kind for kind in KINDS if kind in shown], 1 - 0.24 / height)
    return figure


def layers_figure(profile: "Profile") -> "Figure":
    """Memory, parameters and multiply-adds of one network, a bar a layer."""
    from matplotlib.figure import Figure

    layers = [layer for layer in profile.layers if layer.output]
    named = len(layers) <= MOST_NAMES
    names = [layer.name.removeprefix("backbone.") for layer in layers]
    left, right, top, gap, panel = 0.85, 0.2, 0.95, 0.42, 1.35
    bottom = 0.25 + 0.075 * max(map(len, names)) if named else 0.5
    width = max(6.5, left + right + min(10.0, 0.27 * len(layers)))
    height = top + 3 * panel + 2 * gap + bottom
    figure = Figure(figsize=(width, height), facecolor="white")
    for place, (key, (title, (factor, unit), _)) in enumerate(COSTS.items()):
        y = bottom + (2 - place) * (panel + gap)
        axes = figure.add_axes((left / width, y / height, 1 - (left + right) / width, panel / height))
        values = [getattr(layer, key) / factor for layer in layers]
        axes.bar(range(len(layers)), values, 0.78, color=[KINDS[_kind(layer)][0] for layer in layers])
        axes.set_title(f"{title}, {unit}", fontsize=10.5, loc="left", pad=5)
        axes.set_xlim(-0.7, len(layers) - 0.3)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.tick_params(axis="y", labelsize=8.5)
        ticks = range(len(layers)) if named else []
        axes.set_xticks(
            ticks, names if named and place == 2 else [""] * len(ticks), rotation=90, fontsize=8.5
        )
        _plain(axes, "y")
    axes.set_xlabel("" if named else f"{len(layers)} layers, from the image to the answer", fontsize=9.5)
    figure.text(0.12 / width, 1 - 0.24 / height, profile.name, fontsize=12, fontweight="bold", va="center")
    shown = {_kind(layer) for layer in layers}
    _legend(figure, [kind for kind in KINDS if kind in shown], 1 - 0.5 / height)
    return figure


def _kind(layer: "Layer") -> str:
    kind = layer.kind.removeprefix("transposed ")
    return kind if kind in KINDS else "other"


def _legend(figure: "Figure", kinds: list[str], y: float) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=KINDS[kind][0], label=KINDS[kind][1]) for kind in kinds]
    figure.legend(
        handles=patches,
        loc="center left",
        bbox_to_anchor=(0.12 / figure.get_figwidth(), y),
        ncols=len(kinds),
        frameon=False,
        fontsize=9.5,
        borderaxespad=0,
        borderpad=0,
        handlelength=1,
        handletextpad=0.5,
        columnspacing=1.4,
    )


def _plain(axes: "Axes", values: Literal["x", "y"] = "x") -> None:
    """A light grid along the values, and no frame."""
    axes.grid(axis=values, color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    if values == "x":
        axes.tick_params(axis="x", labelsize=8.5, labelcolor=GREY)
    for side in ("left", "top", "right", "bottom"):
        axes.spines[side].set_visible(False)
