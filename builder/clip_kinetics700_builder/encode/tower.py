"""Runs a CLIP vision tower at one batch shape, compiled or not.

It knows torch alone; `vision` knows transformers and loads the model.
"""

import importlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip_kinetics700_builder.decode.preprocess import Normalize, Preprocessing
from clip_kinetics700_builder.encode.devices import check_compiler
from clip_kinetics700_builder.system.machine import is_out_of_memory
from clip_kinetics700_builder.types import BuildError, Float32Array, UInt8Array

log = logging.getLogger(__name__)


class ClassTokenLayer(torch.nn.Module):
    """Computes the last layer of a tower for the class token alone.

    The embedding is made from that token; the layer needs only keys and values of the others. The
    result is the same, with 7 % less of ViT-B/32's arithmetic.
    """

    def __init__(self, layer: Any) -> None:
        """Take the weights of a `CLIPEncoderLayer`."""
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return the (n, 1, hidden) class tokens of (n, tokens, hidden) states, without a mask."""
        attention = self.layer.self_attn

        def split_heads(states: Tensor) -> Tensor:
            return states.view(*states.shape[:2], -1, attention.head_dim).transpose(1, 2)

        normalized = self.layer.layer_norm1(hidden_states)
        mixed = torch.nn.functional.scaled_dot_product_attention(
            split_heads(attention.q_proj(normalized[:, :1])),
            split_heads(attention.k_proj(normalized)),
            split_heads(attention.v_proj(normalized)),
        )
        token = hidden_states[:, :1] + attention.out_proj(mixed.transpose(1, 2).flatten(2))
        result: Tensor = token + self.layer.mlp(self.layer.layer_norm2(token))
        return result


class VisionTower(torch.nn.Module):
    """Joins the normalisation of pixels, the vision tower and its projection."""

    def __init__(self, model: Any, preprocessing: Preprocessing, dtype: torch.dtype) -> None:
        """Take a `CLIPVisionModelWithProjection` with weights of a dtype."""
        super().__init__()
        layers = model.vision_model.encoder.layers
        layers[-1] = ClassTokenLayer(layers[-1])
        self.model = model
        self.normalize = Normalize(preprocessing)
        self.dtype = dtype

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the (n, width) float32 `image_embeds` of (n, height, width, 3) uint8 RGB."""
        normalized = self.normalize(pixels).to(self.dtype)
        embeds: Tensor = self.model(pixel_values=normalized).image_embeds
        return embeds.float()


@dataclass(frozen=True, slots=True)
class ClipVisionEncoder:
    """Encodes batches of one shape on one device."""

    tower: Callable[[Tensor], Tensor]
    """A `VisionTower`, compiled or not."""
    preprocessing: Preprocessing
    device: torch.device
    dtype: torch.dtype
    width: int
    """Columns of the embeddings: the model's `projection_dim`."""
    batch_size: int
    """The one batch shape that `encode` accepts."""

    def encode(self, pixels: UInt8Array) -> Float32Array:
        """Return the (batch_size, width) float32 `image_embeds` of (batch_size, h, w, 3) uint8 RGB.

        Several threads may call it; on a GPU each thread has a stream of its own.
        """
        if pixels.shape[0] != self.batch_size:
            raise ValueError(f"a batch is {self.batch_size} frames, got {pixels.shape[0]}")
        try:
            array = self._run(torch.from_numpy(pixels))
        except RuntimeError as error:
            raise self._explain(error) from error
        if array.shape != (self.batch_size, self.width):
            raise BuildError(
                f"the model gave embeddings of shape {array.shape}, "
                f"its configuration says {(self.batch_size, self.width)}"
            )
        return array

    def _explain(self, error: RuntimeError) -> RuntimeError:
        """Return an error that says what to do, or the same error if it is the model's own."""
        if isinstance(error, torch.OutOfMemoryError) or is_out_of_memory(error):
            return BuildError(
                f"{self.device} is out of memory at batch size {self.batch_size}; "
                f"set --batch-size {max(1, self.batch_size // 2)} (in a new output directory)"
            )
        # torch's compiler has no public class for its errors.
        if type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
            first = next(iter(str(error).splitlines()), type(error).__name__)
            return BuildError(
                f"the model cannot be compiled here: {first}; "
                "mend that, or set --compile no in a new output directory"
            )
        return error

    def _run(self, pixels: Tensor) -> Float32Array:
        with torch.inference_mode():
            if self.device.type != "cuda":
                return np.asarray(self.tower(pixels))
            # On a stream of its own a thread's work never waits for another thread's.
            with torch.cuda.stream(find_stream(self.device)):
                return np.asarray(self.tower(pixels.to(self.device, non_blocking=True)).cpu())


this_thread = threading.local()


def find_stream(device: torch.device) -> torch.cuda.Stream:
    """Return this thread's stream on a GPU."""
    make_stream: Any = torch.cuda.Stream  # its constructor has no types
    if getattr(this_thread, "device", None) != device:
        this_thread.device, this_thread.stream = device, make_stream(device)
    stream: torch.cuda.Stream = this_thread.stream
    return stream


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderShape:
    """How a model is run; each of these can change a bit of the embeddings."""

    dtype: str
    """Name of a torch dtype, never `auto`."""
    batch_size: int
    compiled: bool


def compile_tower(tower: VisionTower) -> Callable[[Tensor], Tensor]:
    """Return the tower as torch.compile makes it, for one shape.

    The weights are frozen into it, packed as the processor wants them. Nothing is chosen by timing,
    so that all machines of a kind make the same program: bits were the same over restarts,
    positions, neighbours and threads. CUDA graphs are not used, since they belong to one thread.
    """
    check_compiler()
    log.info("the model is compiled first: 15 to 30 s")
    inductor: Any = importlib.import_module("torch._inductor.config")
    compiled: Callable[[Tensor], Tensor] = torch.compile(tower, dynamic=False, fullgraph=True)

    def run(pixels: Tensor) -> Tensor:
        # Each thread has settings of its own, and any thread's first call may be the one that
        # compiles. A pool of compiling processes would stay, at 300 MB each.
        with inductor.patch(freezing=True, compile_threads=1, max_autotune=False):
            return compiled(pixels)

    return run
