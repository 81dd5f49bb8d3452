"""Loads a tower of a Hugging Face CLIP model, and how pictures are prepared for it.

What its image processor does is read from its configuration and then checked against the processor
itself, before any work. Only this module imports transformers, and only where it is needed: that
takes seconds, in which a wrong path is told already.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from clip_kinetics700_builder.decode.preprocess import Normalize, Preprocessing, resize_and_crop
from clip_kinetics700_builder.encode.model_files import (
    PREPROCESSOR_FILE,
    ModelFiles,
    describe_error,
    parse_preprocessing,
    read_object,
)
from clip_kinetics700_builder.encode.tower import (
    ClipVisionEncoder,
    EncoderShape,
    VisionTower,
    compile_tower,
)
from clip_kinetics700_builder.system.machine import is_out_of_memory
from clip_kinetics700_builder.types import InputError, UInt8Array

ATTENTION = "sdpa"
# How far our pixels may be from those of the model's own image processor, in parts of full scale:
# its two backends (PIL, torchvision) differ by up to 2/255 between themselves.
MEAN_TOLERANCE = 1 / 255
MAX_TOLERANCE = 4 / 255
# What transformers raises for files that do not fit, besides its own OSError and ValueError: it
# takes values of the wrong type or size as they are.
LOAD_ERRORS = (
    OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError,
    RuntimeError, ImportError, StrictDataclassError, SafetensorError,
)  # fmt: skip


@contextmanager
def refusing(name: str, what: str) -> Iterator[None]:
    """Turn an error that transformers raises in the block into an InputError about a model."""
    try:
        yield
    except LOAD_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise InputError(f"model {name}: {what}: {describe_error(error)}") from error


def import_transformers() -> Any:
    """Return transformers, which prints nothing; our errors say what is wrong with a model."""
    transformers: Any = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def load_encoder(
    files: ModelFiles, preprocessing: Preprocessing, shape: EncoderShape, *, device: str
) -> ClipVisionEncoder:
    """Load the vision tower on a device with a resolved name; its first call may compile it.

    Raises:
        InputError: the directory's weights are not those of a CLIP vision model, or it is to be
            compiled and there is no compiler.
    """
    dtype = getattr(torch, shape.dtype)
    tower = VisionTower(load_model(files, dtype), preprocessing, dtype).to(device)
    return ClipVisionEncoder(
        tower=compile_tower(tower) if shape.compiled else tower,
        preprocessing=preprocessing,
        device=torch.device(device),
        dtype=dtype,
        width=files.width,
        batch_size=shape.batch_size,
    )


def load_model(files: ModelFiles, dtype: torch.dtype, *, kind: str = "vision") -> Any:
    """Return the `vision` or the `text` tower with its projection, all of it from the weights."""
    transformers, name = import_transformers(), kind.capitalize()
    model_class = getattr(transformers, f"CLIP{name}ModelWithProjection")
    config_class = getattr(transformers, f"CLIP{name}Config")
    refuses = "its weights and config.json cannot be loaded"
    with refusing(files.name, refuses):
        config = config_class.from_pretrained(files.directory)
        # A whole CLIPModel projects by its own configuration, as in `model_files`.
        config.projection_dim = files.width
        n_numbers = count_numbers(config)
    if n_numbers > files.weights_nbytes:
        raise InputError(
            f"model {files.name}: config.json describes {n_numbers:,} numbers, its weights have "
            f"{files.weights_nbytes:,} bytes; they are not of one model"
        )
    with refusing(files.name, refuses):
        model, loading = model_class.from_pretrained(
            files.directory,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            # A configuration may name kernels that are fetched from the Hub.
            attn_implementation=ATTENTION,
        )
    if loading["mismatched_keys"]:
        key, found, wanted = min(loading["mismatched_keys"])
        raise InputError(
            f"model {files.name}: its weights do not fit config.json: {key} has shape "
            f"{list(found)}, config.json says {list(wanted)}"
        )
    missing = sorted(loading["missing_keys"])
    if missing:
        raise InputError(
            f"model {files.name}: its weights are not those of a CLIP {kind} model with a "
            f"projection: {len(missing)} tensors are missing, the first is {missing[0]}"
        )
    # Old checkpoints hold tensors that no model needs, such as position ids, but no such layers.
    layers = f"{kind}_model.encoder.layers."
    unused = [key for key in loading["unexpected_keys"] if key.startswith(layers)]
    if unused:
        raise InputError(
            f"model {files.name}: config.json has no place for {len(unused)} tensors of "
            f"layers in its weights, the first is {min(unused)}"
        )
    return model.eval()


def count_numbers(config: Any) -> int:
    """Return how many numbers the tensors of a tower hold at least, by its configuration.

    To build a tower that somebody made up takes all memory, or hours.
    """
    hidden = config.hidden_size
    of_layer = 4 * hidden * hidden + 2 * hidden * config.intermediate_size
    inputs = getattr(config, "vocab_size", 0) + 3 * getattr(config, "patch_size", 0) ** 2
    # The header of the weights alone has more bytes for a layer.
    layers = config.num_hidden_layers * max(of_layer, 1000)
    return int(layers + hidden * (inputs + config.projection_dim))


def read_preprocessing(files: ModelFiles) -> Preprocessing:
    """Return the model's preprocessing, checked against its own image processor.

    Raises:
        InputError: the directory has no image processor, or one that does something else.
    """
    path = files.directory / PREPROCESSOR_FILE
    if path.is_file():
        read_object(path, files.name)
    with refusing(files.name, f"the image processor of {PREPROCESSOR_FILE} cannot be loaded"):
        processor = import_transformers().AutoImageProcessor.from_pretrained(
            files.directory, trust_remote_code=False
        )
    preprocessing = parse_preprocessing(files.name, processor.to_dict())
    final, taken = preprocessing.final_size, files.image_size
    if final != (taken, taken):
        raise InputError(
            f"model {files.name}: {PREPROCESSOR_FILE} makes pictures of (height, width) {final}, "
            f"image_size of config.json takes {(taken, taken)}"
        )
    generator = np.random.default_rng(0)
    for height, width in ((97, 160), (301, 228)):
        coarse = generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        frame = coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
        check_pixels(files.name, processor, preprocessing, np.ascontiguousarray(frame))
    return preprocessing


def check_pixels(
    name: str, processor: Any, preprocessing: Preprocessing, frame: UInt8Array
) -> None:
    """Refuse an image processor that makes other pixels of a (height, width, 3) frame than we."""
    with refusing(name, f"the image processor of {PREPROCESSOR_FILE} cannot be used"):
        theirs = processor(images=[frame], return_tensors="np")["pixel_values"]
    cropped = resize_and_crop(torch.from_numpy(frame[None]), preprocessing)
    ours = Normalize(preprocessing)(cropped).numpy()
    if not pixels_agree(ours, theirs, std=preprocessing.std):
        raise InputError(
            f"model {name}: our preprocessing does not give the pixels of its image "
            f"processor {type(processor).__name__} ({PREPROCESSOR_FILE}); please report the model"
        )


def pixels_agree(
    ours: npt.NDArray[Any], theirs: npt.NDArray[Any], *, std: tuple[float, ...]
) -> bool:
    """Tell whether two (n, 3, height, width) float32 normalised images are nearly the same."""
    if ours.shape != theirs.shape:
        return False
    difference = np.abs(ours - theirs) * np.asarray(std, np.float32)[None, :, None, None]
    return bool(difference.mean() <= MEAN_TOLERANCE and difference.max() <= MAX_TOLERANCE)


def save_random_model(directory: Path, *, tiny: bool = True, seed: int = 0) -> None:
    """Save a CLIP vision tower with random weights: for demonstrations, tests and benchmarks.

    It has the sizes of ViT-B/32, or with `tiny` a smaller depth and hidden width. One seed always
    gives the same bytes.
    """
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    transformers = import_transformers()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = transformers.CLIPVisionConfig(patch_size=32, **(sizes if tiny else {}))
        model = transformers.CLIPVisionModelWithProjection(config)
    transformers.CLIPImageProcessorPil().save_pretrained(directory)
    model.save_pretrained(directory)
