"""The figures of a profile: nothing outside the page, nothing over anything, the shares of the tables."""

from types import SimpleNamespace

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from paribus.profile.figures import KINDS, layers_figure, shares_figure


def layer(kind, memory, parameters, macs, name="backbone.stages.0.conv"):
    costs = {"memory": memory, "parameters": parameters, "macs": macs}
    return SimpleNamespace(name=name, kind=kind, output=(1,), **costs)


def network(name, times=1):
    layers = [layer("conv", 3072, 100, 9_000_000), layer("transposed conv", 1024, 0, 0)] * times
    layers += [layer("linear", 0, 300, 1_000_000), layer("ReLU", 4096, 0, 0)]
    return SimpleNamespace(name=name, layers=layers)


def texts(figure):
    found = [*figure.texts]
    for axes in figure.axes:
        found += [*axes.texts, *axes.get_yticklabels(), *axes.get_xticklabels(), axes.xaxis.label, axes.title]
    return [text for text in found if text.get_text()]


def inside(figure):
    page, renderer = figure.bbox, FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    for text in texts(figure):
        box = text.get_window_extent(renderer)
        assert page.x0 <= box.x0, text.get_text()
        assert box.x1 <= page.x1, text.get_text()
        assert page.y0 <= box.y0, text.get_text()
        assert box.y1 <= page.y1, text.get_text()


def test_shares_of_several_networks():
    figure = shares_figure([network("one"), network("a_network_with_a_long_name, backbone.norm=group", 40)])
    inside(figure)
    memory, parameters, macs = figure.axes
    widths = [patch.get_width() for patch in memory.patches if patch.get_y() < 0.5]
    assert widths == pytest.approx([50, 50])  # both convolutions, and the ReLU among the others
    assert [patch.get_width() for patch in parameters.patches][:2] == pytest.approx([25, 75])
    assert macs.texts[0].get_text() == "90"
    assert [t.get_text() for t in memory.texts if "MB" in t.get_text()] == ["0.00781 MB", "0.160 MB"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["convolution", "linear", "other"]
    starts = {patch.get_x() for axes in figure.axes for patch in axes.patches}
    assert min(starts) == 0


def test_a_network_without_parameters_has_an_empty_bar():
    bare = SimpleNamespace(name="pooling", layers=[layer("pool", 1024, 0, 0)])
    _, parameters, _ = shares_figure([bare, bare]).axes
    assert not parameters.patches


def test_layers_of_one_network():
    figure = layers_figure(network("alexnet"))
    inside(figure)
    memory, parameters, macs = figure.axes
    assert [patch.get_height() for patch in memory.patches] == pytest.approx([3, 1, 0, 4])
    assert [patch.get_height() for patch in parameters.patches] == pytest.approx([0.1, 0, 0.3, 0])
    assert [patch.get_height() for patch in macs.patches] == pytest.approx([9, 0, 1, 0])
    assert [t.get_text() for t in macs.get_xticklabels()] == ["stages.0.conv"] * 4
    assert not any(t.get_text() for t in memory.get_xticklabels())


def test_many_layers_have_no_names():
    figure = layers_figure(network("deep", 100))
    inside(figure)
    assert figure.axes[2].get_xlabel() == "202 layers, from the image to the answer"
    assert figure.get_figwidth() < 12


def test_every_kind_of_layer_has_a_colour():
    from paribus.profile.operations import KINDS as ALL

    assert {kind.removeprefix("transposed ") for kind in ALL} - set(KINDS) == {"parameter", "unused"}
