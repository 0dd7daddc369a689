"""Two processes give the numbers of one."""

import pytest

from command_line import SMALL, script, succeeded
from composing import composed
from paribus import evaluate
from paribus.results import Run, curves, read_json
from small_data import mask_folders


def test_two_processes_equal_one(tmp_path):
    common = [
        *SMALL,
        "backbone.norm=group",
        "task.head_first=3",
        "trainer.log_every=1",
    ]  # 33 val and 35 test samples: neither divides by 2
    succeeded(script("train", *common, "name=one", cwd=tmp_path))
    succeeded(script("train", *common, "name=two", "trainer=ddp_cpu", cwd=tmp_path))
    (one,), (two,) = ([Run.read(path) for path in tmp_path.glob(f"runs/{name}/*")] for name in ("one", "two"))
    assert two.result["processes"] == 2
    # The same batches, the same gradient but for the order of its sum.
    losses = [[value for _, _, value in curves(run)["train/loss"]] for run in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert two.metrics == pytest.approx(one.metrics, rel=1e-3)
    # The same weights, judged by two processes and by one: what is counted is equal to the last digit,
    # what is summed but for the last bits of a network's output, which depend on the size of the batch.
    evaluated = succeeded(script("evaluate", f"run={two.path}", cwd=tmp_path))
    assert "test/accuracy" in evaluated.stdout
    again = read_json(two.path / "evaluation_test.json")["metrics"]
    for name, value in again.items():
        counted = "accuracy" in name
        assert value == (two.metrics[name] if counted else pytest.approx(two.metrics[name], rel=1e-6)), name


@pytest.mark.slow
def test_two_processes_judge_masks_of_unequal_sizes_as_one(tmp_path):
    mask_folders(tmp_path / "set", splits=("train",), each=8)
    for each, size in ((5, (24, 32)), (2, (30, 20))):  # 5 images of two sizes
        mask_folders(tmp_path / "set", splits=("val",), each=each, size=size)
    run = ["data=mask_folders", "task=segmentation", "model=unet", "model.decoder_channels=[8]", "name=two"]
    run += [
        "data.reader.root=set",
        "data.reader.classes=[a,b,c]",
        "data.reader.splits={train: train, val: val}",
    ]
    run += ["data.reader.images='{split}/*.png'", "data.reader.masks='{split}annot/*.png'", "test=false"]
    run += ["data.fit=pad", "data.size=[20,28]", "data.judge_at=native", "data.batch_size=4"]
    run += ["data.num_workers=0", "backbone.channels=[8]", "trainer.max_epochs=1", "trainer.progress=false"]
    succeeded(script("train", *run, "trainer=ddp_cpu", cwd=tmp_path))
    (two,) = (Run.read(path) for path in tmp_path.glob("runs/two/*"))
    assert two.result["processes"] == 2
    again = evaluate.run(composed(f"run='{two.path}'", "split=val", "batch_size=5", root="evaluate"))
    assert again == pytest.approx({name: two.metrics[name] for name in again}, rel=1e-6)
    assert (
        sum(read_json(two.path / "evaluation_val.json")["per_class"]["pixels"]) == 3 * 23 * 32 + 2 * 29 * 20
    )
