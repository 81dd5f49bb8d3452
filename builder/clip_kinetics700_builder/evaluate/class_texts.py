"""Class texts are one direction in CLIP's space for each class, published beside the data.

`embed_classes` writes them, since every zero-shot user computes them first; `find_class_texts`
takes those where model and prompts are the wanted ones, or computes them.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_kinetics700.schema import CLASS_TEXTS_NAME, MANIFEST_NAME
from clip_kinetics700.streams import read_if_there
from clip_kinetics700.texts import (
    ClassTexts,
    decode_class_texts,
    encode_class_texts,
    normalize_rows,
)
from clip_kinetics700_builder.clips.annotations import read_lines
from clip_kinetics700_builder.config import DEFAULT_MODEL, TextConfig
from clip_kinetics700_builder.dataset.layout import (
    ASSEMBLY_NAME,
    CONVERSION_NAME,
    WORK_NAME,
    read_state,
)
from clip_kinetics700_builder.dataset.manifest import (
    Manifest,
    describe_file,
    read_manifest,
    require_manifest,
    write_manifest,
)
from clip_kinetics700_builder.dataset.staging import lock_dataset
from clip_kinetics700_builder.encode.model_files import ModelFiles, find_model
from clip_kinetics700_builder.parts.canary import Canary, is_same_encoder
from clip_kinetics700_builder.system.files import hash_json, write_bytes, write_json
from clip_kinetics700_builder.system.progress import Progress, no_progress
from clip_kinetics700_builder.types import Failure, InputError

if TYPE_CHECKING:
    from clip_kinetics700_builder.encode.text import TextEncoder

log = logging.getLogger(__name__)

PLACE_OF_NAME = "{}"
SAME_WEIGHTS = "same weights"
SAME_VIDEO = "same embedding of the test video"
NOT_RECORDED = "not recorded"
OTHER = "another family, forced"


def hash_weights(weights_sha256: Mapping[str, str]) -> str:
    """Return one sha256 of a model: its file's, or that of the hashes of several by name."""
    hashes = list(weights_sha256.values())
    return hashes[0] if len(hashes) == 1 else hash_json(dict(weights_sha256))


def check_family(manifest: Manifest | None, files: ModelFiles, name: str, *, force: bool) -> str:
    """Return what says that a model's texts belong to a dataset's frames.

    The manifest has the hash of the weights file that the frames were made with: a whole CLIP is
    one file. Where the hashes differ (the vision tower was saved alone, or in another format), the
    vision tower beside the texts must make of the test video what the manifest says.

    Raises:
        InputError: the model is of another family, and is not to be used all the same.
    """
    configuration = {} if manifest is None else manifest.configuration
    recorded = configuration.get("weights_sha256")
    if not recorded:
        log.warning(
            "%s: records no model, so nothing says whether its frames are of %s", name, files.name
        )
        return NOT_RECORDED
    if hash_weights(recorded) == hash_weights(files.weights_sha256):
        return SAME_WEIGHTS
    canary = None if manifest is None else manifest.canary
    if canary is not None and is_same_vision(canary, configuration, files):
        return SAME_VIDEO
    message = (
        f"{name}: its frames are of {configuration.get('model')} "
        f"(weights {hash_weights(recorded)[:12]}), not of the model {files.name} "
        f"({hash_weights(files.weights_sha256)[:12]})"
    )
    if not force:
        raise InputError(f"{message}; give the same CLIP, or --force for a figure without meaning")
    log.warning("%s; --force was given, the figures mean nothing", message)
    return OTHER


def is_same_vision(canary: Canary, configuration: Mapping[str, Any], files: ModelFiles) -> bool:
    """Tell whether a model's vision tower makes of the test video what a manifest says."""
    from clip_kinetics700_builder.decode.video import (
        DecodeTask,
        Decoding,
        decode_frames,
    )
    from clip_kinetics700_builder.encode.tower import EncoderShape
    from clip_kinetics700_builder.encode.vision import load_encoder, read_preprocessing

    preprocessing = read_preprocessing(files)
    shape = EncoderShape(dtype=configuration.get("dtype", "float32"), batch_size=1, compiled=False)
    encoder = load_encoder(files, preprocessing, shape, device="cpu")
    with resources.as_file(
        resources.files("clip_kinetics700_builder.engines") / "canary.mp4"
    ) as path:
        # A file of the package, so it needs no process of its own.
        frames = decode_frames(DecodeTask(0, str(path), 0, Decoding(1.0, preprocessing)))
    if isinstance(frames, Failure):
        return False
    vector = encoder.encode(frames.pixels[:1])[0].tolist()
    vectors = [canary.vector, *(variant.vector for variant in canary.variants)]
    return any(is_same_encoder(vector, known) for known in vectors)


@dataclass(frozen=True, slots=True)
class TextTarget:
    """The dataset that texts are to be compared with."""

    name: str
    """As messages call it."""
    root: str
    """Path or URL of its directory; empty where files were named."""
    manifest: Manifest | None
    """The manifest of a dataset of ours; None for others."""
    width: int
    """Columns of its embeddings."""


def read_prompts(path: Path | None) -> tuple[str, ...]:
    """Return the prompts of a file, or OpenAI's 28 for Kinetics-700.

    Raises:
        InputError: the file cannot be read, is empty, or a line has not exactly one `{}`.
    """
    if path is None:
        # From data/prompts.md of github.com/openai/CLIP, `a example` included.
        file = resources.files(__package__) / "prompts_kinetics700.txt"
        return tuple(file.read_text(encoding="utf-8").splitlines())
    prompts = []
    for number, line in enumerate(read_lines(path), 1):
        prompt = line.rstrip("\r\n")
        if prompt.count(PLACE_OF_NAME) != 1:
            raise InputError(f"{path} line {number}: {prompt!r} must hold {{}} once, for the name")
        prompts.append(prompt)
    if not prompts:
        raise InputError(f"{path} is empty; expected a prompt a line, with {{}} for the class name")
    return tuple(prompts)


def find_class_texts(
    target: TextTarget, names: Sequence[str], config: TextConfig, *, progress: Progress
) -> tuple[ClassTexts, bool]:
    """Return the texts of a class list, and whether they are those published beside the data.

    Raises:
        InputError: the model cannot be used, or is not of the family of the embeddings.
    """
    prompts = read_prompts(config.prompts)
    published = read_published(target)
    if published is None or published.prompts != prompts or not {*names} <= {*published.names}:
        return compute_class_texts(target, names, config, progress=progress), False
    if config.model is not None:
        files = find_model(config.model, config.model_revision)
        if hash_weights(files.weights_sha256) != published.model_sha256:
            return compute_class_texts(target, names, config, progress=progress), False
    if published.family == OTHER and not config.force:
        raise InputError(
            f"{target.name}: its {CLASS_TEXTS_NAME} is of {published.model}, {OTHER}; give the "
            "--model that its frames are of, or --force for a figure without meaning"
        )
    order = [published.names.index(name) for name in names]
    return replace(published, names=tuple(names), embeddings=published.embeddings[order]), True


def read_published(target: TextTarget) -> ClassTexts | None:
    """Return the texts that are published beside the data, None where there are none.

    A file that is not the one that the manifest lists, or of another width, is refused.
    """
    entry = None if target.manifest is None else target.manifest.files.get(CLASS_TEXTS_NAME)
    if entry is None:
        return None
    data = read_if_there(f"{target.root}/{CLASS_TEXTS_NAME}")
    if data is None or hashlib.sha256(data).hexdigest() != entry.sha256:
        what = "is missing" if data is None else "is not the file"
        raise InputError(f"{target.name}: {CLASS_TEXTS_NAME} {what} that {MANIFEST_NAME} lists")
    try:
        texts = decode_class_texts(data)
    except ValueError as error:
        raise InputError(f"{target.name}: {CLASS_TEXTS_NAME}: {error}") from error
    check_width(target, texts.embeddings.shape[1], texts.model)
    return texts


def check_width(target: TextTarget, width: int, model: str) -> None:
    """Refuse a model whose space has another number of dimensions."""
    if width != target.width:
        raise InputError(
            f"{target.name}: its embeddings have {target.width} columns, texts of the model "
            f"{model} have {width}; give the CLIP that the frames are of"
        )


def compute_class_texts(
    target: TextTarget, names: Sequence[str], config: TextConfig, *, progress: Progress
) -> ClassTexts:
    """Return the texts of a class list, computed: minutes for 700 classes and 28 prompts."""
    prompts = read_prompts(config.prompts)
    encoder, files, family = open_text_model(target, config)
    n_texts = len(names) * len(prompts)
    with progress("texts", n_texts, "texts") as advance:
        texts = [prompt.replace(PLACE_OF_NAME, name) for name in names for prompt in prompts]
        units = normalize_rows(encoder.encode(texts, advance=advance))
    by_class = units.reshape(len(names), len(prompts), -1)
    return ClassTexts(
        names=tuple(names),
        embeddings=normalize_rows(by_class.mean(axis=1, dtype=np.float32)),
        prompts=prompts,
        model=files.name,
        model_sha256=hash_weights(files.weights_sha256),
        family=family,
    )


def open_text_model(
    target: TextTarget, config: TextConfig
) -> tuple["TextEncoder", ModelFiles, str]:
    """Return a text encoder, its files, and what says that it belongs to the dataset's frames."""
    from clip_kinetics700_builder.encode.text import load_text_encoder

    files = find_model(*choose_model(target.manifest, config))
    check_width(target, files.width, files.name)
    encoder = load_text_encoder(files)
    family = check_family(target.manifest, files, target.name, force=config.force)
    return encoder, files, family


def choose_model(manifest: Manifest | None, config: TextConfig) -> tuple[str, str | None]:
    """Return which model is meant, and at which revision.

    Without a name it is the Hub's model that the frames are of, else the builds' default; the name
    of a directory alone does not say where that is.
    """
    recorded = {} if manifest is None else manifest.configuration
    if config.model is None and "/" in str(recorded.get("model")):
        return recorded["model"], config.model_revision or recorded.get("model_revision")
    return config.model or DEFAULT_MODEL, config.model_revision


def embed_classes(
    directory: Path, config: TextConfig, *, progress: Progress = no_progress
) -> ClassTexts:
    """Write the texts of a dataset's classes beside its data and into its manifest.

    Raises:
        InputError: it is no finished dataset of ours, has no classes, or the model cannot be used.
    """
    manifest = require_manifest(directory)
    names = manifest.class_names
    if not names:
        raise InputError(f"{directory}: has no classes, so there is nothing to embed")
    target = TextTarget(directory.resolve().name, str(directory), manifest, manifest.width)
    texts = compute_class_texts(target, names, config, progress=progress)
    with lock_dataset(directory):
        if read_manifest(directory) != manifest:
            raise InputError(f"{directory}: was changed meanwhile; run it again")
        publish(directory, manifest, texts)
    return texts


def publish(directory: Path, manifest: Manifest, texts: ClassTexts) -> None:
    """Write the file, then the manifest that lists it; cut off between the two, run it again."""
    path = directory / CLASS_TEXTS_NAME
    write_bytes(path, encode_class_texts(texts))
    changed = manifest.with_file(CLASS_TEXTS_NAME, describe_file(path, len(texts.names)))
    write_manifest(directory, changed)
    # Assembly and conversion know their output by the manifest: it is still the same data.
    for name in (ASSEMBLY_NAME, CONVERSION_NAME):
        state = read_state(directory, name)
        if state is not None and state.get("manifest") == manifest.self_sha256:
            write_json(directory / WORK_NAME / name, {**state, "manifest": changed.self_sha256})
