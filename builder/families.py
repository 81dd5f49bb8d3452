"""Does a text model belong to the embeddings of a dataset? By weights, or by the test video.

In: what the manifest records of the vision model, and the files of a whole CLIP. Out: what says
that they belong together; texts of another model against these frames would mean nothing.
"""

import logging
from collections.abc import Mapping
from importlib import resources
from typing import Any

from builder.canary import Canary, is_same_encoder
from builder.manifest import canonical_json, hash_bytes
from builder.model_files import ModelFiles
from builder.types import Failure, InputError

log = logging.getLogger(__name__)

SAME_WEIGHTS = "same weights"
SAME_VIDEO = "same embedding of the test video"
NOT_RECORDED = "not recorded"
OTHER = "another family, forced"


def hash_weights(weights_sha256: Mapping[str, str]) -> str:
    """Return one sha256 of a model: its file's, or that of the hashes of several by name."""
    hashes = list(weights_sha256.values())
    return hashes[0] if len(hashes) == 1 else hash_bytes(canonical_json(dict(weights_sha256)))


def check_family(
    manifest: Mapping[str, Any] | None, files: ModelFiles, name: str, *, force: bool
) -> str:
    """Return what says that a model's texts belong to a dataset's frames.

    The manifest has the hash of the weights file that the frames were made with: a whole CLIP is
    one file. Where the hashes differ (the vision tower was saved alone, or in another format), the
    vision tower beside the texts must make of the test video what the manifest says.

    Args:
        manifest: of the dataset; None where it has none.
        files: of the whole CLIP.
        name: of the dataset.
        force: use a model of another family all the same.

    Raises:
        InputError: it is of another family.
    """
    configuration = {} if manifest is None else manifest.get("configuration", {})
    recorded = configuration.get("weights_sha256")
    if not recorded:
        log.warning(
            "%s: records no model, so nothing says whether its frames are of %s", name, files.name
        )
        return NOT_RECORDED
    if hash_weights(recorded) == hash_weights(files.weights_sha256):
        return SAME_WEIGHTS
    canary = Canary.from_document(manifest or {})
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
    from builder.decode import DecodeTask, Decoding, check_ffmpeg, decode_frames
    from builder.encode import load_encoder, read_preprocessing
    from builder.tower import EncoderShape

    check_ffmpeg()
    preprocessing = read_preprocessing(files)
    shape = EncoderShape(dtype=configuration.get("dtype", "float32"), batch_size=1, compiled=False)
    encoder = load_encoder(files, preprocessing, shape, device="cpu")
    with resources.as_file(resources.files("builder") / "canary.mp4") as path:
        # A file of the package, so it needs no process of its own.
        frames = decode_frames(DecodeTask(0, str(path), 0, Decoding(1.0, preprocessing)))
    if isinstance(frames, Failure):
        return False
    vector = encoder.encode(frames.pixels[:1])[0].tolist()
    vectors = [canary.vector, *(variant.vector for variant in canary.variants)]
    return any(is_same_encoder(vector, known) for known in vectors)
