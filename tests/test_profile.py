"""scripts/profile.py: what it prints and writes, for one network and several, and what it refuses."""

import csv
import io
import re

import pytest
from hydra import initialize_config_dir

from command_line import script, succeeded
from composing import composed
from paribus.config import CONF
from paribus.door import explain
from paribus.profile.run import named, run, variants

SMALL = ("backbone=convnet", "input_size=32", "classes=10", "batch_size=8")


def profiled(*overrides, others=()):
    cfg = composed(*overrides, root="profile", fill=False)
    with initialize_config_dir(str(CONF), version_base="1.3"):  # as the door has it, for the others
        return run(cfg, others=others)


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


# --- one network -----------------------------------------------------------------------------------


def test_a_layers_row_and_the_sums(capsys):
    (found,) = profiled(*SMALL)
    text = capsys.readouterr().out
    first = r"backbone\.\S+ +conv +3 +2 +1 +16 x 16 x 16 +3 +16\.0 +432 +0\.111\n"
    assert re.search(first, text), text
    assert re.search(rf"\ntotal .* {found.parameters:,} +{found.macs / 1e6:,.3f}\n", text)
    text = " ".join(text.split())
    assert re.search(r"Training, batch 8, AdamW \(2 states a parameter\): parameters 0\.3 \+ .* = \d", text)
    assert "32 x 32 pixels, 10 classes" in text
    assert found.training.parameters > 4 * found.parameters  # with the buffers of batch norm
    assert found.measured is None


def test_sizes_channels_and_classes_reach_the_network():
    (found,) = profiled(*SMALL[:1], "input_size=[20,40]", "classes=7", "data.channels=1")
    assert found.size == (20, 40)
    assert found.layers[0].output == (16, 10, 20)
    assert found.layers[0].parameters == 9 * 16
    assert found.layers[-1].output == (7,)


@pytest.mark.parametrize(
    ("overrides", "size", "classes"),
    [
        ([], (224, 224), 1000),
        (["task=segmentation", "model=unet"], (224, 224), 21),
        (["task=detection", "model=retinanet", "input_size=64"], (64, 64), 91),
        (["data=cifar10"], (32, 32), 1000),  # its reader knows its classes; its file does not list them
        (["data=camvid", "task=segmentation", "model=unet"], (360, 480), 11),
        (["data=class_folders"], (224, 224), 1000),  # without its root: no data is read
        (["data=mask_folders", "task=segmentation", "model=unet", "input_size=64"], (64, 64), 21),
        (["task=distillation"], (224, 224), 1000),  # nor its teacher
    ],
)
def test_what_is_assumed(overrides, size, classes):
    (found,) = profiled("backbone=convnet", "batch_size=2", *overrides)
    assert (found.size, found.classes) == (size, classes)


def test_keys_tied_to_the_size_see_it():
    (found,) = profiled(
        *("backbone=timm", "backbone.name=test_vit_relpos", "+backbone.image_size=${data.size}"[1:]),
        *("input_size=64", "batch_size=2"),
    )
    assert found.layers[0].output[-2:] == (4, 4)


def test_weights_are_not_needed():
    (found,) = profiled(
        "backbone=timm", "backbone.name=test_resnet", "backbone.weights=nowhere.pth", "batch_size=2"
    )
    assert found.parameters > 0


def test_a_detector_of_other_sides_than_a_square():
    (found,) = profiled(
        *("model=retinanet", "task=detection", "backbone=timm", "backbone.name=test_resnet"),
        *("input_size=[64,96]", "batch_size=2", "model.pyramid_channels=8"),
    )
    assert found.layers[-1].name.startswith("head.regression_head.bbox_reg")
    assert found.training.activations > 0


def test_frozen_parts_are_not_trained():
    (whole,), (head,) = profiled(*SMALL), profiled(*SMALL, "task=linear_probe")
    assert head.parameters == whole.parameters
    assert head.training.gradients == 4 * head.layers[-1].parameters


def test_the_optimizers_states(capsys):
    (found,) = profiled(*SMALL, "optimizer=momentum")
    assert found.training.states == found.training.gradients
    assert "SGD (1 state a parameter)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("until", "last"),
    [(4, "backbone.stages.1"), ("head", "head"), ("pool", "pool")],
)
def test_the_table_ends_where_one_says(until, last, capsys):
    (found,) = profiled(*SMALL, f"until={until}")
    assert found.layers[-1].name.startswith(last)
    assert found.layers[-1].name == found.until
    assert found.training is None
    text = capsys.readouterr().out
    assert f"\ntotal until {found.until} " in text
    assert "Training" not in text
    if until == 4:
        assert all(layer.jump == (2, 2) for layer in found.layers[:-1])


def test_everything_is_shown_if_asked():
    (usual,), (everything,) = profiled(*SMALL), profiled(*SMALL, "all=true")
    assert {"ReLU", "Dropout"} <= {layer.kind for layer in everything.layers}
    assert len(everything.layers) > len(usual.layers)
    assert everything.macs == usual.macs


def test_what_is_measured_is_said(capsys, monkeypatch):
    monkeypatch.setattr("paribus.profile.measure.SECONDS", 0.0)
    (found,) = profiled(*SMALL, "backbone.channels=[4]", "measure=true")
    text = " ".join(capsys.readouterr().out.split())
    assert re.search(
        r"Measured on .*, \d+ threads?, batch 8: forward [\d,.]+ images/s \(median of 3\), at", text
    )
    assert found.measured[0].peak < found.measured[1].peak


# --- the lectures' numbers ---------------------------------------------------------------------------


def test_the_lectures_alexnet():
    (found,) = profiled("backbone=alexnet_single", "input_size=227")
    assert [round(layer.memory / 1024) for layer in found.layers] == [
        *(784, 182, 547, 127, 254, 169, 169, 36, 16, 16, 4),
    ]
    assert [round(layer.macs / 1e6) for layer in found.layers] == [73, 0, 224, 0, 112, 150, 100, 0, 38, 17, 4]
    assert [layer.parameters // 1000 for layer in found.layers if layer.kind == "conv"] == [
        23,
        307,
        663,
        884,
        590,
    ]


def test_the_lectures_stems():
    (googlenet,) = profiled("backbone=googlenet_2014", "backbone.norm=none", "until=8")
    assert googlenet.layers[-1].output == (192, 28, 28)
    assert round(googlenet.memory / 2**20, 1) == 7.5
    assert googlenet.parameters // 1000 == 124
    assert round(googlenet.macs / 1e6) == 478  # the formula's; the lecture says 418
    (vgg,) = profiled("backbone=vgg16", "until=8")
    assert vgg.layers[-1].output == (256, 28, 28)
    counted = [layer for layer in vgg.layers if layer.kind == "conv"][:-1]  # by the lecture, without poolings
    assert round(sum(layer.memory for layer in counted) / 2**20, 1) == 42.9
    assert round(sum(layer.parameters for layer in counted) / 1e6, 1) == 1.1
    assert round(sum(layer.macs for layer in counted) / 1e6) == 7485


# --- formats ---------------------------------------------------------------------------------------


def test_csv_reads_back(capsys):
    (found,) = profiled(*SMALL, "format=csv")
    read = rows(capsys.readouterr().out)
    assert len(read) == len(found.layers)
    assert sum(int(row["parameters"]) for row in read) == found.parameters
    assert sum(int(row["macs"]) for row in read) == found.macs
    assert sum(int(row["output_bytes"]) for row in read) == found.memory
    assert (read[0]["kernel"], read[0]["output"], read[0]["field_height"], read[0]["jump"]) == (
        *("3", "16x16x16", "3", "2"),
    )
    assert read[-1]["field_height"] == read[-1]["jump"] == ""


def test_markdown_reads_back(capsys):
    (found,) = profiled(*SMALL, "format=markdown")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    table = cells[: len(found.layers) + 3]  # header, rule, total
    assert len({len(row) for row in table}) == 1
    assert [row[0] for row in table[2:-1]] == [layer.name for layer in found.layers]
    assert [int(row[-2].replace(",", "")) for row in table[2:-1]] == [x.parameters for x in found.layers]


def test_a_folder_of_tables_and_a_figure(tmp_path, capsys):
    (found,) = profiled(*SMALL, f"output={tmp_path}/out")
    assert str(tmp_path / "out") in capsys.readouterr().err
    names = ["figure.png", "figure.svg", "layers.csv", "networks.csv", "profile.md"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    (network,) = rows((tmp_path / "out" / "networks.csv").read_text())
    assert int(network["parameters"]) == found.parameters
    assert int(network["training_total_bytes"]) == found.training.total
    assert network["training_peak_bytes"] == ""
    assert len(rows((tmp_path / "out" / "layers.csv").read_text())) == len(found.layers)
    assert "](figure.png)" in (tmp_path / "out" / "profile.md").read_text()


# --- several networks ------------------------------------------------------------------------------


def test_lists_of_values_are_command_lines():
    assert variants(["backbone=a,b", "task=c", "x=[1,2],[3,4]"]) == [
        ["backbone=a", "task=c", "x=[1,2]"],
        ["backbone=a", "task=c", "x=[3,4]"],
        ["backbone=b", "task=c", "x=[1,2]"],
        ["backbone=b", "task=c", "x=[3,4]"],
    ]
    assert variants(["-m", "depth=range(2,5)"]) == [["depth=2"], ["depth=3"], ["depth=4"]]
    assert variants(["--help", "input_size=[3,4]", "no=(sense"]) == [
        ["--help", "input_size=[3,4]", "no=(sense"]
    ]
    assert variants([]) == [[]]


def test_names_say_what_differs():
    assert named([["backbone=a", "task=c"], ["backbone=b", "task=c"]]) == ["a", "b"]
    assert named([["backbone=a", "n=1"], ["backbone=a", "n=2"]]) == ["n=1", "n=2"]
    assert named([["backbone=a", "n=1"]]) == ["a"]
    assert named([["n=1"]]) == ["convnet"]


def test_a_comparison_from_the_door(tmp_path):
    arguments = ["backbone.channels=[4],[4,8]", "input_size=32", "batch_size=2", "output=out"]
    done = succeeded(script("profile", *arguments, cwd=tmp_path))
    lines = done.stdout.splitlines()
    assert re.match(r"network +input +parameters +GMAC +activations MB +training MB", lines[0])
    assert lines[2].startswith("backbone.channels=[4] ")
    assert lines[3].startswith("backbone.channels=[4,8] ")
    one, two = rows((tmp_path / "out" / "networks.csv").read_text())
    assert int(one["parameters"]) < int(two["parameters"])
    assert {row["network"] for row in rows((tmp_path / "out" / "layers.csv").read_text())} == {
        *("backbone.channels=[4]", "backbone.channels=[4,8]"),
    }
    assert [path.name for path in tmp_path.iterdir()] == ["out"] or "outputs" not in str(
        list(tmp_path.iterdir())
    )


def test_each_of_several_is_composed_and_checked_by_itself():
    one, two = profiled("backbone=convnet", "batch_size=2", others=[["backbone=convnet4", "batch_size=2"]])
    assert [one.name, two.name] == ["convnet", "convnet4"]
    assert len(two.layers) > len(one.layers)
    with pytest.raises(ValueError, match=r"`backbone\.depht` \(override \+backbone\.depht=1\)"):
        profiled("backbone=convnet", others=[["backbone=convnet4", "+backbone.depht=1"]])
    with pytest.raises(ValueError, match=r"input_size=8: .*9 pixels or more"):
        profiled("input_size=32", "batch_size=2", others=[["input_size=8", "batch_size=2"]])


# --- what is refused -------------------------------------------------------------------------------

BAD = {
    "format=html": r"^format=html: text, markdown or csv$",
    "accelerator=tpu": r"^accelerator=tpu: cpu or gpu$",
    "batch_size=0": r"^batch_size=0: 1 or more$",
    "classes=0": r"^classes=0: 1 or more$",
    "input_size=large": r"^input_size=large: pixels a side, input_size=224, or input_size=\[320,480\]$",
    "input_size=0": r"^input_size=0: pixels a side",
    "input_size=[1,2,3]": r"^input_size=\[1, 2, 3\]: pixels a side",
    "until=1000": r"^until=1000: no layer has that stride; there are 2, 4, 8$",
    "until=haed": r"^until=haed: no such layer, nearest: 'head'; or a stride, until=8$",
    "input_size=4": r"takes images of 9 pixels or more",
    "data.size=null": r"^data\.size=null, each image keeps its own: say for which, input_size=\[480,640\]$",
    "backbon=vgg": r"`backbon` is no key, nearest: 'backbone'; valid keys: .*input_size",
    "+inputsize=3": r"`inputsize` \(override \+inputsize=3\) is no key, nearest: 'input_size'",
    "+backbone.depht=1": r"`backbone\.depht` .*ConvNet has no parameter 'depht'",
    "+model.num_classes=3": r"`model\.num_classes` .*is set by Paribus itself",
    "+trainer.precision=8": r"`trainer` \(override .*\) is no key",
    "+data.chanels=1": r"`data\.chanels`: choose an option first, data=\.\.\.",
    "data=cifar10 +data.reader.rot=x": r"Cifar has no parameter 'rot', nearest: 'root'",
    "model=retinanet": r"answers with boxes, but `task\.target` is label: task=detection",
    "backbone=vgg61": r"backbone=vgg61: no such option, nearest: 'vgg1\d'; available: .*convnet",
    "backbone=timm": r"`backbone\.name` has no value \(conf/backbone/timm\.yaml\): .*backbone\.name=",
    "~optimizer.lr +optimizer.weigth_decay=0": r"AdamW has no parameter 'weigth_decay', nearest",
}


@pytest.mark.parametrize("overrides", BAD, ids=str)
def test_bad_config(overrides):
    with pytest.raises(Exception) as raised:  # noqa: PT011  (which one it is, is not the point)
        profiled(*overrides.split(" "))
    message = explain(raised.value)
    assert message, f"a traceback: {raised.value!r}"
    assert re.search(BAD[overrides], message, re.DOTALL), message


@pytest.mark.skipif("__import__('torch').cuda.is_available()")
def test_a_gpu_that_is_not_there():
    with pytest.raises(
        ValueError, match=r"^accelerator=gpu: this machine shows no GPU to torch; accelerator=cpu$"
    ):
        profiled("accelerator=gpu", "measure=true")


def test_the_door_says_it_in_one_line(tmp_path):
    done = script("profile", "backbone=convnet,nothing", cwd=tmp_path)
    assert done.returncode == 1
    assert "error: backbone=nothing: no such option" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_names_every_key(tmp_path):
    text = succeeded(script("profile", "--help", cwd=tmp_path)).stdout
    root = (CONF / "profile.yaml").read_text().split("hydra:")[0]
    for key in re.findall(r"^(\w+):", root.split("data:\n", 1)[0] + root, flags=re.MULTILINE):
        assert key == "defaults" or key in text, key
