"""What the machine offers, and what a plan makes of it: device, precision, compilation. Decided, never timed."""

import os
import shutil
import sys
import sysconfig
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from longtail.models.network import Network
from longtail.progress import say_once
from longtail.spec import InputError
from longtail.training.plans import Plan

# Compiling costs 40 to 60 s on two cores and saves about a fifth of the time per image: it pays after some two
# million pixels x a thousand, which 200 epochs of CIFAR-100-LT are (2.2e9) and a smoke run is not (2e7).
COMPILE_FROM = 1e9  # pixels trained on


def select_device() -> torch.device:
    """Return the GPU if there is one, else the CPU; LONGTAIL_DEVICE overrides. Makes a GPU deterministic.

    Where torchrun has started several processes, each has the GPU of its place among those of this machine.
    """
    name = os.environ.get("LONGTAIL_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise InputError(f"LONGTAIL_DEVICE is {name}; choose cpu, cuda, or a GPU by number such as cuda:1.")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"LONGTAIL_DEVICE is {name}, but torch sees no GPU. Unset it to train on the CPU.")
    if name.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats itself only with this
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False  # float32 means float32; training is in bfloat16 anyway
    if name == "cuda" and torch.distributed.is_torchelastic_launched():
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    return torch.device(name)


def select_precision(plan: Plan, device: torch.device) -> torch.dtype:
    """Return the autocast dtype: for `auto`, bfloat16 where the hardware multiplies in it, else float32."""
    if plan.precision != "auto":
        return torch.bfloat16 if plan.precision == "bfloat16" else torch.float32
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_multiplies_bfloat16()
    return torch.bfloat16 if fast else torch.float32


def _cpu_multiplies_bfloat16() -> bool:
    flags = Path("/proc/cpuinfo")
    text = flags.read_text() if flags.exists() else ""
    return "amx_bf16" in text or "avx512_bf16" in text


def eagerly() -> AbstractContextManager[object]:
    """Return a block in which compiled stages run as they were written.

    Where nothing has been compiled there is nothing to do, and torch's compiler, which takes a second to import, is
    left alone.
    """
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def should_compile(plan: Plan, images: int, image_size: int, device: torch.device) -> bool:
    """Decide on torch.compile from the plan's length and the compilers present.

    Args:
        images: N, training images per epoch.
        image_size: side in pixels.
    """
    long_enough = plan.epochs * images * image_size**2 >= COMPILE_FROM
    wanted = plan.compile == "on" or (plan.compile == "auto" and long_enough)
    if wanted and not _can_compile():
        say_once("No C++ compiler with Python's headers (g++, python3-dev): training runs uncompiled, a fifth slower.")
        return False
    return wanted


def compile_stages(network: Network, varies_from: int | None) -> None:
    """Compile each stage of a network in place, so that maps, features and logits all gain and no state is renamed.

    Args:
        varies_from: the first stage whose batches vary in size; it and those behind it are compiled for any size, the
            others for one. Never torch's automatic choice, whose kernels differ after a restart.
    """
    first = len(network.stages) if varies_from is None else varies_from % len(network.stages)
    for place, stage in enumerate(network.stages):
        stage.compile(dynamic=place >= first)


def _can_compile() -> bool:
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return headers.exists() and any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))
