"""What a user gets wrong, and what is said: the key, where it comes from, the nearest, the fix."""

import re
import subprocess
import sys

import pytest
from hydra.errors import MissingConfigException

from command_line import ROOT, environment
from composing import composed
from paribus.checks import check
from paribus.config import ConfigError
from paribus.door import explain, quoted


def complaint(*overrides: str) -> str:
    """The message that scripts/train.py would end with."""
    with pytest.raises(Exception) as raised:  # noqa: PT011  (which one it is, is not the point)
        check(composed(*overrides, fill=False))
    message = explain(raised.value)
    assert message, f"a traceback for {overrides}: {raised.value!r}"
    return message


BAD = {
    # unknown keys, at every depth and by every way in
    "trainer.max_epoch=3": r"`trainer\.max_epoch` is no key, nearest: 'max_epochs'; valid .*precision",
    "+trainer.max_epoch=3": r"\(override \+trainer\.max_epoch=3\) is no key, nearest: 'max_epochs'",
    "nam=x": r"`nam` is no key, nearest: 'name'",
    "+sed=1": r"`sed` \(override \+sed=1\) is no key, nearest: 'seed'",
    "optimizer.momentum=0.9": r"`optimizer\.momentum` is no key.*valid keys of `optimizer`: lr",
    "+optimizer.weight_decy=0.1": r"AdamW has no parameter 'weight_decy', nearest: 'weight_decay'",
    "++model.dropot=0.1": r"Classifier has no parameter 'dropot', nearest: 'dropout'; valid: .*dropout",
    "+data.reader.sed=1": r"DigitScenes has no parameter 'sed', nearest: 'seed'",
    "+scheduler.warm_up=5": r"Cosine has no parameter 'warm_up', nearest: 'warmup'",
    "+task.monitr=x": r"Classification has no parameter 'monitr', nearest: 'monitor'",
    "augmentation.after_resize=[{_target_: albumentations.HorizontalFlip, prob: 0.5}]": (
        r"`augmentation\.after_resize\[0\]\.prob` .*HorizontalFlip has no parameter 'prob'.*valid: p"
    ),
    # choices and targets that do not exist
    "optimizer=sdg": r"optimizer=sdg: no such option, nearest: 'sgd'; available: adagrad, adam",
    "experiment=camvid_unt": r"experiment=camvid_unt: no such option, nearest: 'camvid_unet'",
    "optimizer._target_=torch.optim.SDG": r"`optimizer\._target_`.*`torch\.optim\.SDG` cannot be found",
    # wrong types and values
    "trainer.max_epochs=many": r"`trainer\.max_epochs`: Value 'many'.*Integer",
    "optimizer.lr='a'": r"`optimizer\.lr=a` \(override .*\): input should be a valid number",
    "data.batch_size=1.5": r"`data\.batch_size=1\.5` .*valid integer",
    "data.fit=squeeze": r"`data\.fit=squeeze` .*'stretch', 'crop' or 'pad'",
    "task.mode=biggest": r"`task\.mode=biggest` .*'max' or 'min'",
    "trainer.precision=8": r"trainer\.precision=8: one of 32-true, bf16-mixed, 16-mixed",
    "trainer.ema=2": r"trainer\.ema=2.*between 0 and 1",
    "trainer.max_epochs=0": r"trainer\.max_epochs=0: 1 or more",
    # missing values
    "data=class_folders": r"`data\.reader\.root` has no value \(conf/data/class_folders\.yaml\).*data\.reader\.root=",
    "~optimizer.lr": r"`optimizer` lacks `lr`",
    "data.mean=???": r"`data\.mean` has no value",
    # set by Paribus itself
    "+model.num_classes=3": r"`model\.num_classes` .* is set by Paribus itself: remove it",
    # contradictions between groups
    "task=segmentation": r"`model` is .*Classifier, which answers with label or labels, but `task\.target` is mask: .*model=unet",
    "model=unet": r"`model` is .*UNet, which answers with mask, but `task\.target` is label: task=segmentation",
    "task=detection": r"model=retinanet",
    "task.target=mask": r"`task` is paribus\.tasks\.Classification, which answers with label",
    "data.batch_size=63 trainer=ddp_cpu": r"`data\.batch_size=63` .*does not divide by 2 .*data\.batch_size=62",
    "trainer.precision=16-mixed": r"16-mixed needs a GPU; on the processor use trainer\.precision=bf16-mixed",
    "trainer.devices=2": r"devices=2 needs trainer\.strategy=ddp",
    "task.monitor=train/loss": r"`task\.monitor=train/loss`.*val/",
    "ablation=normalization +ablation.factors.depth=[1,2]": r"`ablation\.baseline` must name one level",
}


@pytest.mark.parametrize("overrides", BAD, ids=str)
def test_bad_config(overrides):
    arguments = [overrides] if "{" in overrides else overrides.split(" ")
    message = complaint(*arguments)
    assert re.search(BAD[overrides], message, re.DOTALL), message


def test_the_file_is_named(tmp_path):
    """A wrong key in a recipe's YAML, which Hydra would add without a word."""
    for name, text, named in (
        ("root", "sed: 3\n", "sed"),
        ("depth", "optimizer:\n  momentm: 0.9\n", "momentm"),
        ("trainer", "trainer:\n  max_epoch: 3\n", "max_epoch"),
    ):
        folder = tmp_path / "experiment"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.yaml").write_text("# @package _global_\n" + text)
        done = subprocess.run(
            [
                sys.executable,
                str(ROOT / "scripts" / "train.py"),
                f"experiment={name}",
                f"hydra.searchpath=[file://{tmp_path}]",
            ],
            cwd=tmp_path,
            env=environment(tmp_path),
            text=True,
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == 1
        assert named in done.stderr
        assert f"experiment/{name}" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
        assert not list(tmp_path.glob("runs/*/*/result.json"))


def test_all_faults_at_once():
    message = complaint("+optimizer.momentm=1", "data.batch_size=1.5", "+trainer.max_epoch=3")
    assert "momentm" in message
    assert "batch_size" in message
    assert "max_epoch" in message


def test_a_checked_config_is_plain():
    checked = check(composed("trainer.ema=0.99"))
    assert checked.trainer.ema == 0.99
    assert isinstance(checked.data, dict)
    assert checked.data["size"] == [32, 32]


def test_errors_of_ours_keep_their_traceback():
    assert explain(RuntimeError("a bug")) is None
    assert explain(ConfigError("a fault")) == "a fault"


def test_a_plugin_that_is_not_there_is_named():
    absent = MissingConfigException("Could not load 'hydra/launcher/ray'.", "hydra/launcher/ray")
    assert explain(absent) == "hydra/launcher=ray: its plugin is not installed: pip install -e .[ray]"


def test_paths_need_no_quotes(tmp_path):
    run = tmp_path / "backbone.norm=group,seed=1"
    run.mkdir()
    assert quoted(f"run={run}") == f"run='{run}'"
    assert quoted("seed=0,1") == "seed=0,1"
    assert quoted("run=runs") == "run=runs"
