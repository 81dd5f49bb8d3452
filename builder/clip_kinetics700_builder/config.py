"""Every option of every command stands here once: its default, its help and what it may be.

`cli/options.py` makes the options of the command line of these fields. Fields without an `option`
are arguments of their commands, or for Python alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from clip_kinetics700.damage import OnError
from clip_kinetics700.schema import PROTOCOLS, SAMPLES_PER_SHARD, Protocol, normalize_split
from clip_kinetics700_builder.option import (
    option,
    parse_date,
    parse_device,
    parse_formats,
    parse_splits,
    parse_words,
)
from clip_kinetics700_builder.types import FORMATS

CVDF_URL = "https://s3.amazonaws.com/kinetics/"
DEEPMIND_URL = "https://storage.googleapis.com/deepmind-media/Datasets/"
VERSIONS = ("400", "600", "700", "700-2020")
DEFAULT_MODEL = "openai/clip-vit-base-patch32"
# The default repository holds only pickled weights on its main branch; the safetensors
# conversion of the same weights is its pull request 15.
DEFAULT_MODEL_REVISION = "refs/pr/15"
# A task is at most this many frames of one clip, so memory is bounded for any video.
FRAMES_PER_TASK = 64
# An 8-hour file of 4K takes less than half of it.
WORKER_MEMORY_MIB = 1536
# torch and PyAV take 300 before any work.
MIN_WORKER_MEMORY_MIB = 512
# More than anything counted here; beyond it, numbers stop fitting where they are used.
MOST = 10**9

LinearProbeProtocol = Literal["card", "mean-pooled"]
LINEAR_PROBE_PROTOCOLS: tuple[str, ...] = get_args(LinearProbeProtocol)


def share_option() -> float:
    """Return the field of `--max-failures`, which a build looks at twice."""
    text = "Share of clips that may fail; where more do, encoding stops, and the exit code is 1."
    share: float = option(text, default=0.5, low=0, high=1)
    return share


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationsConfig:
    """Which annotations are read: files that are given, or those of a release, fetched once."""

    files: tuple[Path, ...] = option(
        "CSV or JSON of Kinetics, tables (path,caption,...), directories of them; one or more.",
        default=(),
        name="annotations",
    )
    version: str | None = option(
        "Release of Kinetics; its annotations are fetched where none are given.", choices=VERSIONS
    )
    base_url: str = option(
        "Where CVDF's lists, archives and annotations are: a mirror or a directory.",
        default=CVDF_URL,
        metavar="URL_OR_DIR",
    )
    annotations_url: str = option(
        "Where DeepMind's annotations are.", default=DEEPMIND_URL, metavar="URL_OR_DIR"
    )
    cache: Path | None = option(
        "Directory of fetched annotations; default: clip-kinetics700 in the user's cache."
    )
    splits: tuple[str, ...] = option(
        "Comma-separated; default: every split there is.", default=(), parse=parse_splits
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipsConfig:
    """Which clips are encoded, in which order, where they are, and which of their frames."""

    annotations: AnnotationsConfig = AnnotationsConfig()
    videos: Path | None = option("Directory with the video files.")
    source: str | None = option(
        "Where clips are that --videos has not: cvdf streams its archives.", choices=("cvdf",)
    )
    class_list: str = option(
        "auto, 400, 600, 700 or a file with a class name a line: numbers the labels.",
        default="auto",
    )
    frames_per_second: float = option(
        "How many frames are kept of a second of video.",
        default=1.0,
        low=0,
        high=10**6,
        is_open=True,
    )
    keep_damaged: bool = option(
        "Keep clips with damaged frames; their meta says which frames these are.", default=False
    )
    square_pixels: bool = option(
        "Stretch pictures whose pixels are not square to how they are displayed.", default=False
    )
    seed: int = option("Seed of the order.", default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """What encodes the frames, with all that can change a bit of an embedding."""

    name: str = option("Hub id or directory of a CLIP.", default=DEFAULT_MODEL, name="model")
    revision: str | None = option("Branch, tag or commit of a Hub model.")
    dtype: str = option(
        "What the model computes in; the dataset is float16 always.",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    compile: str = option(
        "Whether torch.compile makes the model faster; auto: where that pays for itself.",
        default="auto",
        choices=("auto", "yes", "no"),
    )
    batch_size: int | None = option(
        "Frames in a call of the model; default: 16 on a CPU, 256 on a GPU.", low=1, high=MOST
    )
    device: str = option("auto, cpu, cuda or cuda:N.", default="auto", parse=parse_device)
    decoder: str = option(
        "What decodes: pyav notices damage, torchcodec can use NVDEC; auto: pyav on a CPU.",
        default="auto",
        choices=("auto", "pyav", "torchcodec"),
    )
    decode_device: str = option(
        "cuda decodes with NVDEC, where torchcodec was built with it.",
        default="cpu",
        choices=("cpu", "cuda"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultConfig:
    """What is done about clips that failed, and about what fails by no clip's fault."""

    retry_errors: tuple[str, ...] | None = option(
        "Try again what failed, for all reasons or for some.",
        metavar="[REASON,...]",
        parse=parse_words,
        bare="",
    )
    outage_wait_seconds: float = option(
        "Seconds to wait for a disk or a server that fails before the run stops.",
        default=300.0,
        name="outage_wait",
        low=0,
        high=10**6,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig(FaultConfig):
    """How the work is done: nothing here changes a byte of the dataset."""

    max_failures: float = share_option()
    rows_per_part: int = option(
        "Clips in a part, the unit that is never done twice.", default=500, low=1, high=MOST
    )
    encode_lanes: int | None = option(
        "Batches in the encoder at a time; default: one a core, two on a GPU.", low=1, high=MOST
    )
    decode_workers: int | None = option("Decoders; default: one a core.", low=1, high=MOST)
    task_timeout_seconds: float = option(
        "Seconds after which decoding 64 frames of a clip is given up.",
        default=120.0,
        name="task_timeout",
        low=0,
        high=10**6,
        is_open=True,
    )
    worker_memory_mib: int = option(
        "MiB at which a process that decodes is stopped and its clip given up.",
        default=WORKER_MEMORY_MIB,
        name="worker_memory",
        low=MIN_WORKER_MEMORY_MIB,
    )
    rank: int | None = option(
        "Number of this process among several on one output; default: Slurm's, else 0.", low=0
    )
    world_size: int | None = option(
        "How many processes share the output; default: Slurm's, else 1.", low=1, high=MOST
    )
    engine: str = option(
        "local: this machine, or this rank of several; ray: a Ray cluster.",
        default="local",
        choices=("local", "ray"),
    )
    ray_address: str | None = option(
        "Or auto, or local; default: RAY_ADDRESS, else a cluster on this machine.",
        metavar="HOST:PORT",
    )
    ray_cpus: int | None = option(
        "CPUs of one task; default: those of the smallest node, shared among its GPUs.",
        low=1,
        high=MOST,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeConfig:
    """A build: what can change a byte of it, `clips` and `model`, and what never does, `run`."""

    work: Path
    """Directory of the stored configuration, the plan and the parts."""
    clips: ClipsConfig = ClipsConfig()
    model: ModelConfig = ModelConfig()
    run: RunConfig = RunConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class AssembleConfig:
    """What becomes of parts, or of a processed dataset, in the published layout."""

    source: Path
    output: Path
    seed: int | None = option("Seed of the order of a processed dataset; default: 0.")
    class_list: str | None = option(
        "auto, 400, 600, 700 or a file: numbers labels that SOURCE does not number."
    )
    samples_per_shard: int = option(
        "Samples in a tar and in a Parquet file.", default=SAMPLES_PER_SHARD, low=1, high=MOST
    )
    formats: tuple[str, ...] = option(
        "What is written: parquet, webdataset.", default=FORMATS, parse=parse_formats
    )
    max_failures: float = share_option()
    date: str | None = option("Date for the manifest; none is written otherwise.", parse=parse_date)
    figures: bool = option(
        "Draw the card's pictures, which takes matplotlib and two seconds.", default=True
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """A dataset of any dialect that is read."""

    source: str
    """Directory, fsspec URL, repository of the Hub, or one tar."""
    index: str | None = option(
        "Index of SOURCE that lies elsewhere than in it; path or URL.", metavar="FILE"
    )
    on_error: OnError = option(
        "Whether damage ends the run, or costs the damaged samples alone.",
        default="raise",
        choices=get_args(OnError),
    )
    revision: str | None = option("Branch, tag or commit of a Hub repository.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertConfig:
    """A dataset of any dialect, and what becomes of it in the published layout."""

    source: SourceConfig
    assembly: AssembleConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadConfig(FaultConfig):
    """Which clips of Kinetics are fetched, from where, into which directory."""

    output: Path
    annotations: AnnotationsConfig = AnnotationsConfig()
    classes: tuple[str, ...] = option("Comma-separated; else all.", default=(), parse=parse_words)
    max_samples: int | None = option("Clips of each split; those there count first.", low=1)
    shuffle: bool = option("Random clips instead of those that cost least to get.", default=False)
    seed: int = option("Seed of the random choice.", default=0)
    num_workers: int = option("Clips or archives at a time.", default=4, low=1, high=64)
    source: tuple[str, ...] = option(
        "Where to look for a clip, one after the other.",
        default=("cvdf",),
        metavar="DIR,cvdf,youtube",
        parse=parse_words,
    )
    cookies: Path | None = option(
        "For YouTube: cookies of a browser that is signed in, a Netscape file."
    )
    youtube_interval: float = option(
        "Seconds between the starts of two downloads from YouTube.", default=5.0, low=0, high=3600
    )
    youtube_address: str = "https://www.youtube.com/watch?v={id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PushConfig:
    """A finished dataset, and the repository of the Hub that is to hold it."""

    directory: Path
    repository: str
    """NAMESPACE/NAME."""
    private: bool = option("If the repository is created: for its members only.", default=False)
    revision: str | None = option("Branch; created from main.")
    message: str | None = option("Message of the commit.")
    create_pr: bool = option("Open a pull request instead of committing.", default=False)
    token_file: Path | None = option(
        "Holds a token of the Hub; default: HF_TOKEN, or that of `hf auth login`.", metavar="FILE"
    )
    max_workers: int = option(
        "Files that are sent at a time; Xet holds about 150 MB for each.",
        default=3,
        low=1,
        high=MOST,
    )
    keep_extra: bool = option("Keep files there that are not of the dataset.", default=False)
    dry_run: bool = option("Say what would be done; write nothing.", default=False)
    timeout_seconds: float = 120.0
    """Seconds of silence after which a connection to the Hub is given up."""
    first_pause_seconds: float = 1.0
    """Pause before the second attempt; it doubles before each one after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """Which text model, and whether it must belong to the embeddings."""

    prompts: Path | None = option(
        "A prompt a line, {} for the class name; default: OpenAI's 28.", metavar="FILE"
    )
    model: str | None = option(
        "A whole CLIP; default: that of the published class texts, else of the frames.",
        metavar="ID_OR_DIR",
    )
    model_revision: str | None = option("Branch, tag or commit of a Hub model.")
    force: bool = option("Take a text model of another family than the frames.", default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """What is common to every evaluation."""

    source: SourceConfig
    split: str = option("Which clips are counted.", default="validation", parse=normalize_split)
    classes: str | None = option("400, 600, 700 or a file; default: the manifest's, else 700.")
    seed: int = option("Seed of the intervals, and of what is drawn from train.", default=0, low=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroShotConfig:
    """An evaluation that takes the class whose text is nearest."""

    evaluation: EvaluationConfig
    text: TextConfig = TextConfig()
    protocol: Protocol = option(
        "How the frames of a clip become one answer.", default="card", choices=PROTOCOLS
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Which clips of train a probe learns from."""

    fraction: float = option(
        "Share of the clips of train that is taken, at random.",
        name="train_fraction",
        default=1.0,
        low=0,
        high=1,
        is_open=True,
    )
    held_out: float = 0.1
    """Share of those clips that chooses C or a learning rate; the protocol `card` has no choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearProbeConfig:
    """An evaluation that trains a linear classifier on the frames of train."""

    evaluation: EvaluationConfig
    protocol: LinearProbeProtocol = option(
        "Feature and classifier.", default="card", choices=LINEAR_PROBE_PROTOCOLS
    )
    train: TrainConfig = TrainConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentiveProbeConfig:
    """An evaluation that trains attention over the frames of train, with a linear classifier."""

    evaluation: EvaluationConfig
    train: TrainConfig = TrainConfig()
    epochs: int = option("Passes over the clips of train.", default=10, low=1, high=MOST)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """Which frames are searched with which text model."""

    source: SourceConfig
    text: TextConfig = TextConfig()
    split: str | None = option("Default: all of them.", parse=normalize_split)
    top: int = option("Clips for each text.", default=20, low=1, high=MOST)
