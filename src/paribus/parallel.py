"""How several processes train one network: by copies of it, or by shares of its weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from paribus.config import TrainerConfig
from paribus.models.blocks import blocks, recomputed
from paribus.models.sync_batch import on_the_host


def strategy(t: TrainerConfig) -> Any:
    """Lightning's strategy for ``trainer.strategy`` and the keys that go with it."""
    if t.strategy == "auto":
        return "auto"
    # Our own watch (stalled.py) names who is late and ends the run; this is for when it cannot.
    timeout = timedelta(minutes=2 * t.timeout, seconds=60)
    if t.strategy == "fsdp":
        return FSDP(timeout=timeout)
    return DDPStrategy(
        timeout=timeout,
        static_graph=t.static_graph,
        gradient_as_bucket_view=t.gradient_as_bucket_view,
        find_unused_parameters=t.find_unused_parameters,
    )


@contextmanager
def prepared(model: Any, t: TrainerConfig) -> Iterator[None]:
    """Inside, the model trains as ``trainer.compile`` and ``trainer.checkpoint_activations`` say, and where it has
    synchronized batch norms and several processors, with ours."""
    several = t.accelerator == "cpu" and t.devices * t.num_nodes > 1
    with (
        on_the_host(model) if several else nullcontext(),
        recomputed(model.backbone) if t.checkpoint_activations else nullcontext(),
    ):
        if t.compile:
            # In place: torch.compile(model) would put a name before every key of its weights.
            model.compile(mode="reduce-overhead" if t.cuda_graphs else None)
        try:
            yield
        finally:
            model._compiled_call_impl = None


def ending_together(trainer: Trainer) -> Trainer:
    """The trainer, whose processes end training at one and the same step after any of them has heard SIGTERM.

    Lightning's handler broadcasts in the midst of whatever else its process is telling the others: where one was
    in a backward pass and another already past it, each waited for what the other did not send, for ever.
    """
    if trainer.world_size > 1:
        trainer._signal_connector = Told(trainer)
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = trainer._signal_connector.agree  # type: ignore[method-assign]
    return trainer


class Told(_SignalConnector):
    """A signal is taken down, and told to the others with the next step. told: whether this process heard one.

    They tell each other through their hosts and hear of it a step later: neither a device nor a process that is a
    little late is waited for, as with Lightning's broadcast at every step.
    """

    told = False
    group: Any = None  # of the hosts
    asked: Any = None  # on its way since the step before: the work, and whether one of them was told

    def agree(self) -> None:
        """Every process comes here before each step of training."""
        if self.group is None:
            timeout = getattr(self.trainer.strategy, "_timeout", None)
            self.group = torch.distributed.new_group(backend="gloo", timeout=timeout)
        if self.asked is not None:
            work, told = self.asked
            work.wait()
            if told.item():
                self.received_sigterm = True
                raise SIGTERMException
        told = torch.tensor([int(self.told)])
        most = torch.distributed.ReduceOp.MAX
        self.asked = torch.distributed.all_reduce(told, most, self.group, async_op=True), told

    def _sigterm_notifier_fn(self, signum: Any, _: Any) -> None:
        if not self.told and self.trainer.strategy.launcher is not None:
            self.trainer.strategy.launcher.kill(signum)  # tells those that it has started
        self.told = True
        # In training it is known when all have agreed: alone, a process would leave the others waiting for it.
        self.received_sigterm = self.trainer.state.fn != TrainerFn.FITTING


def heard(trainer: Trainer) -> bool:
    """Whether this process was told to end, or the processes have agreed to."""
    return trainer.received_sigterm or getattr(trainer._signal_connector, "told", False)


class FSDP(DDPStrategy):
    """Each process keeps its share of weights, gradients and optimizer states, and borrows the others' weights for
    the block that it computes (torch's ``fully_shard``, FSDP2; Zhao et al. 2023, PyTorch FSDP).

    Lightning's FSDPStrategy takes GPUs only. Its ModelParallelStrategy wants the network to be cut in a method of the
    LightningModule, before a moving average copies it, which a network in shares does not let itself be. Here it is
    cut where DDP would wrap it: what is restored, copied or averaged before is whole, and a checkpoint is one plain
    file of whole tensors, the same as DDP's: a run of one process loads it, and the other way round.
    """

    def configure_ddp(self) -> None:
        task: Any = self.lightning_module
        mesh = torch.distributed.device_mesh.init_device_mesh(self.root_device.type, (self.world_size,))
        for block in blocks(task.model.backbone):
            fully_shard(block, mesh=mesh)
        # In shares again after every forward pass: what looks at the weights between two steps finds them so.
        fully_shard(task.model, mesh=mesh, reshard_after_forward=True)
        if hasattr(task.model, "judged"):
            register_fsdp_forward_method(task.model, "judged")

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return whole(super().lightning_module_state_dict())

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        return whole(super().optimizer_state(optimizer))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            kept = {
                index: {name: _as(weights[index], value) for name, value in values.items()}
                for index, values in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": kept})


class WholeToJudge(Callback):
    """With fsdp the weights are put together before a split is judged: processes judge unequal numbers of batches, and
    the one with more would wait for weights that nobody sends. To be listed before a moving average of the weights,
    which comes before the first batch and goes after the last.
    """

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if batch_idx == 0:
            with torch.inference_mode(False), torch.no_grad():  # training goes on with the same tensors
                for module in _cut(pl_module):
                    module.set_reshard_after_forward(False, recurse=False)
                    module.unshard()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for module in _cut(pl_module):
            module.set_reshard_after_forward(True, recurse=False)
            module.reshard()


def _cut(module: torch.nn.Module) -> list[FSDPModule]:
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


def whole(tensors: Any) -> Any:
    """With every tensor in shares put together, on the host. Every process has to ask."""
    return tree_map(lambda t: t.full_tensor().cpu() if isinstance(t, DTensor) else t, tensors)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's share, of a tensor that is in shares; else the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shared_as(weights: Any, averages: Any) -> None:
    """Cuts the parameters of one module as those of another are cut."""
    with torch.no_grad():
        for (name, weight), average in zip(weights.named_parameters(), averages.parameters(), strict=True):
            if isinstance(weight, DTensor):
                owner, _, key = name.rpartition(".")
                cut = torch.nn.Parameter(_as(weight, average.data), requires_grad=average.requires_grad)
                averages.get_submodule(owner).register_parameter(key, cut)


def _as(weight: torch.Tensor, value: Any) -> Any:
    """A whole tensor in shares as the weight it belongs to; what is no such tensor as it is."""
    if not isinstance(weight, DTensor) or not isinstance(value, torch.Tensor) or value.shape != weight.shape:
        return value
    value = value.to(weight.device)
    return distribute_tensor(value, weight.device_mesh, weight.placements, src_data_rank=None)
