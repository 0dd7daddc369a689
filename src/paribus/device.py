"""What the machine gives a run: threads, a device, memory."""

import os
import platform
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from paribus.config import ConfigError, TrainerConfig


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Bytes that a new process may take without pushing others out; on macOS, which does not say, all there are."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def device_memory(trainer: TrainerConfig) -> int:
    """Bytes that one of a run's processes may take: of its GPU, or its share of what is free."""
    import torch

    if trainer.accelerator == "gpu" and torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return free_memory() // max(1, trainer.devices)


def visible_gpus() -> list[str]:
    """The names by which a process may be given one GPU each, found without torch; empty without NVIDIA's driver."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    try:
        asked = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        said = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return said.split()


def global_rank(trainer: TrainerConfig) -> int:
    """This process's number among all of a run's, on all of its machines, before Lightning knows it: from torchrun's
    environment, from Lightning's (which sets LOCAL_RANK for those that it starts), or from Slurm's.
    """
    told = os.environ
    if "RANK" in told:
        return int(told["RANK"])
    if "LOCAL_RANK" in told or "NODE_RANK" in told:
        node = int(told.get("NODE_RANK") or told.get("GROUP_RANK") or 0)
        return node * max(1, trainer.devices) + int(told.get("LOCAL_RANK") or 0)
    return int(told.get("SLURM_PROCID") or 0)


def set_threads(trainer: TrainerConfig) -> int:
    """The run's share of the cores, set before torch starts its pool.

    More threads than free cores are the largest single loss on small machines (5 to 35 times slower:
    OpenMP's threads spin while they wait), so the number is said once and everywhere. See keep_memory, too.
    """
    keep_memory()
    processes = trainer.devices if trainer.accelerator == "cpu" else 1
    given = trainer.threads or int(os.environ.get("OMP_NUM_THREADS") or 0)
    threads = given or max(1, cores() // max(1, processes))
    os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = str(threads)  # the latter: hotcoco's
    if "torch" in sys.modules:  # a later run of this process
        import torch

        torch.set_num_threads(threads)
    return threads


def keep_memory() -> None:
    """What this process frees it uses again: a step's activations lie where those of the step before lay.

    glibc gives large blocks back to the system at once, which then has to fill their pages with zeros for each batch
    anew: 7,000 pages in a step of ResNet-18 in float32, a tenth of its time, and three quarters of what it takes to make
    a batch of floats. Other systems' allocators are left as they are.
    """
    import ctypes

    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        for option in (-3, -1):  # M_MMAP_THRESHOLD, from where on a block is mapped; M_TRIM_THRESHOLD
            mallopt(option, 1 << 30)


def check_device(trainer: TrainerConfig) -> None:
    """Raises ConfigError where the machine lacks what the config asks for."""
    import torch

    if trainer.accelerator != "gpu":
        # Lightning sets it, and torch then opens NVIDIA's library in every step of an optimizer: 64 us.
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
        return
    present = torch.cuda.device_count()
    if not present and not torch.backends.mps.is_available():
        raise ConfigError("`trainer.accelerator=gpu`: this machine shows no GPU to torch; use trainer=cpu")
    if present and trainer.devices > present:
        raise ConfigError(
            f"`trainer.devices={trainer.devices}`: this machine shows {present} GPU(s); trainer.devices={present}"
        )
    if present and trainer.precision == "bf16-mixed" and not torch.cuda.is_bf16_supported():
        raise ConfigError(
            "`trainer.precision=bf16-mixed`: this GPU has no bfloat16; use trainer.precision=16-mixed"
        )


def device_name(trainer: TrainerConfig) -> str:
    import torch

    if trainer.accelerator == "gpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return platform.processor() or platform.machine()


def peak_memory() -> int:
    """Bytes: of the GPU where one is in use, else of this process."""
    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
