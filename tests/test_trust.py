"""A run folder from a stranger runs no code: what its config may name, and what is said of the rest."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from command_line import SMALL, script
from composing import composed
from paribus.config import CONF, ConfigError
from paribus.models.weights import read_weights
from paribus.restore import restored, run_config, teacher_model
from paribus.trust import refuse_foreign
from test_train import train

SOURCE = Path(__file__).parents[1] / "src" / "paribus"


def refusal(config) -> str:
    with pytest.raises(ConfigError) as raised:
        refuse_foreign(config, Path("run/config.yaml"))
    return str(raised.value)


def targets() -> list[str]:
    """Those that conf/ names in what a run folder holds."""
    found = set()
    for file in CONF.rglob("*.yaml"):
        found |= set(re.findall(r"_target_: *([\w.]+)", file.read_text(encoding="utf-8")))
    return sorted(found - {"paribus.sweep.callback.Sweep"})


@pytest.mark.parametrize("target", targets())
def test_what_the_options_name_is_known(target):
    refuse_foreign({"a": [{"_target_": target}]}, Path("config.yaml"))


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "builtins.exec",
        "subprocess.Popen",
        "torch.load",
        "torch.hub.load",
        "torch.optim.lr_scheduler.torch.load",
        "torch.optim.sgd.torch.hub.load",
        "joblib.load",
        "numpy.load",
        "hydra.utils.instantiate",
        "paribus.results.write_text",  # a function that writes where it is told
        "paribus.results.MetricsFile",  # and a class
        "paribus.results.os.system",  # a module that one of ours imports
        "paribus.data.published.pickle.loads",
        "paribus.data.published.pickle.Unpickler",
        "paribus.data.module.DataLoader",  # another library's class
        "paribus.data.download.fetch",
        "paribus.data.files.FileSplit.without",
        "paribus.models.weights.read_weights",
        "paribus.models",
        "paribus.models.",
        "paribus.modelsx.Evil",
        "albumentations.load",
        "albumentations.core.serialization.open",
        "evil.Backbone",
        "",
        "paribus.optimizers.Cosine ",
        "../evil",
    ],
)
def test_what_could_run_code_is_refused_by_name(target):
    message = refusal(
        {"task": {"_target_": "paribus.tasks.Classification", "more": [{"x": {"_target_": target}}]}}
    )
    assert "run/config.yaml is refused" in message
    assert f"`task.more[0].x._target_` is {target!r}" in message


@pytest.mark.parametrize("value", [["os.system"], {"a": "os.system"}, 3, None])
def test_a_target_is_a_name(value):
    assert "_target_" in refusal({"model": {"_target_": value}})


@pytest.mark.parametrize("key", ["_partial_", "_recursive_"])
def test_no_other_key_of_hydra_opens_the_door(key):
    assert "os.system" in refusal({"optimizer": {"_target_": "os.system", key: True}})


def test_interpolations_which_might_become_a_target_are_refused():
    """``\\${`` is a plain string when it is resolved once, and a node when it is resolved again."""
    for value in ("${oc.env:HOME}", r"\${oc.create:'{_target_: os.system}'}"):
        assert re.search(r"`data\.x` is .* an interpolation", refusal({"data": {"x": value}}))
    assert "an interpolation" in refusal({"data": {"${x}": 1}})


def test_the_user_adds_what_is_trusted(monkeypatch):
    config = {"backbone": {"_target_": "mine.networks.Tiny"}, "model": {"_target_": "yours.Head"}}
    message = refusal(config)
    assert message.endswith("PARIBUS_TRUST=mine.networks.Tiny,yours.Head python ...")
    monkeypatch.setenv("PARIBUS_TRUST", "mine.networks.Tiny, yours")
    refuse_foreign(config, Path("config.yaml"))
    assert "minen" in refusal({"a": {"_target_": "minen.X"}})
    monkeypatch.setenv("PARIBUS_TRUST", "mine")
    assert "mine.networks.Tiny" not in refusal(config)


def test_what_is_no_name_is_not_put_into_a_command():
    assert "PARIBUS_TRUST" not in refusal({"a": {"_target_": "x; rm -rf ~"}})


@pytest.fixture
def foreign(tmp_path):
    """A run whose backbone, if it were made, or looked at by an import, would leave a file."""
    train(tmp_path / "run", "trainer.max_steps=1")
    (tmp_path / "evil.py").write_text(
        f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()\ndef Backbone(**_): pass\n"
    )
    file = tmp_path / "run" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    config["backbone"] = {"_target_": "evil.Backbone"}
    file.write_text(yaml.safe_dump(config))
    return tmp_path


def test_a_foreign_run_neither_teaches_nor_is_restored(foreign, monkeypatch):
    monkeypatch.syspath_prepend(foreign)
    with pytest.raises(
        ConfigError, match=r"run/config\.yaml is refused:\n`backbone\._target_` is 'evil\.Backbone'"
    ):
        run_config(foreign / "run")
    with pytest.raises(ConfigError, match=r"task\.teacher: .*\n`backbone\._target_` is 'evil\.Backbone'"):
        teacher_model(str(foreign / "run"), None)
    assert not (foreign / "ran").exists()


@pytest.mark.parametrize(
    "arguments", [["evaluate", "run=run"], ["predict", "run=run", "images=run"]], ids=lambda a: a[0]
)
def test_the_scripts_end_with_the_refusal(foreign, monkeypatch, arguments):
    monkeypatch.setenv("PYTHONPATH", str(foreign))
    ended = script(*arguments, cwd=foreign)
    assert ended.returncode == 1
    assert "`backbone._target_` is 'evil.Backbone'" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (foreign / "ran").exists()


class Evil:
    """Leaves a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_a_checkpoint_that_would_run_code_is_refused_wherever_one_is_read(tmp_path, caplog):
    train(tmp_path / "run", "trainer.max_steps=1")
    folder, config = run_config(tmp_path / "run")
    for name in ("best", "last"):
        torch.save(
            {"state_dict": {}, "code": Evil(tmp_path / "ran")}, folder / "checkpoints" / f"{name}.ckpt"
        )
    with pytest.raises(ConfigError, match=r"best\.ckpt cannot be read as tensors and plain data"):
        restored(folder, config)
    with pytest.raises(ValueError, match="cannot be read as tensors and plain data"):
        read_weights(str(folder))
    (folder / "result.json").unlink()  # so that training goes on
    train(folder, "trainer.max_steps=1")
    assert "cannot be read as tensors and plain data" in caplog.text
    assert not (tmp_path / "ran").exists()


def test_every_unpickling_says_that_it_is_of_weights_alone():
    calls = [
        (file, line.strip())
        for file in SOURCE.rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.search(
            r"torch\.load\(|ckpt_path=|allow_pickle=True|load_from_checkpoint|torch\.hub|joblib\.load|dill",
            line,
        )
    ]
    assert len(calls) >= 4  # NumPy's load refuses pickles by itself
    for file, line in calls:
        assert "weights_only=True" in line or "``" in line, f"{file}: {line}"


def test_addresses_that_a_run_names_are_not_fetched(tmp_path):
    (tmp_path / "run").mkdir()
    overrides = ["data=oxford_pet", "task=segmentation", "model=unet", "data.reader.download=true"]
    text = train_config(*overrides, root=tmp_path)
    assert "archives" in text
    (tmp_path / "run" / "config.yaml").write_text(text)
    _, config = run_config(tmp_path / "run")
    assert config.data["reader"]["download"] is False


def train_config(*overrides: str, root: Path) -> str:
    from dataclasses import asdict

    from paribus.checks import check

    return yaml.safe_dump(
        asdict(check(composed(*SMALL[1:2], *SMALL[3:], f"data.reader.root={root}", *overrides)))
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: [", "is no YAML"), ("3", "is no YAML"), ("model: 3", "another Paribus"), ("[1]", "another")],
)
def test_a_config_that_is_none_is_named(tmp_path, text, said):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"config\.yaml .*{said}"):
        run_config(tmp_path)
