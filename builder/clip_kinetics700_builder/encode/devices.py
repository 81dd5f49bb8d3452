"""Decides what `auto` means on this machine: device, dtype, batch size, whether to compile.

Each of these is decided once for an output directory, since it can change a bit of the embeddings.
"""

import os
import shutil
import sysconfig
from pathlib import Path

import torch

from clip_kinetics700_builder.config import ModelConfig
from clip_kinetics700_builder.types import InputError

# Compiling takes 15 to 30 s, and a core then encodes ViT-B/32 a tenth faster in bfloat16: it pays
# after some 500 ten-second clips. In float32 it gains 3 % (`make bench`).
CLIPS_WORTH_COMPILING = 500
# This number is not measured: a GPU mostly waits for the decoder.
CLIPS_WORTH_COMPILING_FOR_CUDA = 50_000


def resolve_device(device: str, local_rank: int = 0) -> str:
    """Return the device that `auto` means here, or a named one if it exists.

    The processes of a machine with several GPUs take one each.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {device}: this torch sees no CUDA device; use cpu or auto")
    n_devices = torch.cuda.device_count()
    if ":" in device and int(device.split(":")[1]) >= n_devices:
        raise InputError(f"--device {device}: there are {n_devices} CUDA devices")
    return f"cuda:{local_rank % n_devices}" if device == "cuda" and n_devices > 1 else device


def resolve_decode_device(device: str, encode_device: str) -> str:
    """Return the device that decodes: the CPU, or else the encoder's GPU, which must be there."""
    if device == "cpu":
        return device
    if not torch.cuda.is_available():
        raise InputError(f"--decode-device {device}: this torch sees no CUDA device; use cpu")
    return encode_device if encode_device.startswith("cuda") else "cuda:0"


def resolve_decoder(model: ModelConfig) -> str:
    """Return what `auto` decodes with on the device that is to decode, or a decoder by its name.

    Raises:
        InputError: the named one cannot use the device.
    """
    on_gpu = model.decode_device != "cpu"
    if model.decoder == "pyav" and on_gpu:
        raise InputError("--decoder pyav: decodes on the CPU alone; use torchcodec or auto")
    return ("torchcodec" if on_gpu else "pyav") if model.decoder == "auto" else model.decoder


def resolve_dtype(dtype: str, device: str) -> str:
    """Return the dtype that `auto` means: bfloat16 where hardware multiplies it, else float32.

    bfloat16 costs at most 5.3e-5 of cosine and is twice to four times as fast.
    """
    if dtype != "auto":
        return dtype
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text(encoding="utf-8").split()) if cpuinfo.exists() else set()
    return "bfloat16" if flags & {"avx512_bf16", "amx_bf16", "bf16"} else "float32"


def resolve_batch_size(batch_size: int | None, device: str) -> int:
    """Return the batch size.

    On a CPU, whose threads each fill a batch of their own, sizes from 8 to 40 were measured within
    3 % of each other, and a small one leaves less of the last round idle. For a GPU none was
    measured.
    """
    if batch_size is not None:
        return batch_size
    return 256 if device.startswith("cuda") else 16


def resolve_compiled(choice: str, device: str, dtype: str, *, n_clips: int, n_cores: int) -> bool:
    """Return whether the model is compiled: `auto` is yes where it can be and pays for itself.

    That is a matter of the clips that this process will encode, and of the cores it may use.

    Raises:
        InputError: it must be compiled, and this machine cannot.
    """
    if choice == "yes":
        check_compiler()
    if choice != "auto":
        return choice == "yes"
    is_worth = dtype != "float32" and n_clips >= CLIPS_WORTH_COMPILING * n_cores
    if device.startswith("cuda"):
        is_worth = n_clips >= CLIPS_WORTH_COMPILING_FOR_CUDA
    return is_worth and find_missing_tool() is None


def find_missing_tool() -> str | None:
    """Return the name of a tool that torch.compile needs and this machine lacks, or None."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        return "the C++ compiler g++"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return None if header.is_file() else f"Python's headers ({header})"


def check_compiler() -> None:
    """Raise InputError if no model can be compiled on this machine."""
    missing = find_missing_tool()
    if missing is not None:
        raise InputError(
            f"the model cannot be compiled here: {missing} is missing; install it "
            "(`apt-get install g++ python3-dev`), or set --compile no in a new output directory"
        )
