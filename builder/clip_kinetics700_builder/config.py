"""Every option of a build and its only default; the CLI and the pipeline read them here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from clip_kinetics700.damage import OnError
from clip_kinetics700.schema import SAMPLES_PER_SHARD
from clip_kinetics700.texts import Protocol

CVDF_URL = "https://s3.amazonaws.com/kinetics/"
DEEPMIND_URL = "https://storage.googleapis.com/deepmind-media/Datasets/"

DEFAULT_MODEL = "openai/clip-vit-base-patch32"
# The default repository holds only pickled weights on its main branch; the safetensors
# conversion of the same weights is its pull request 15.
DEFAULT_MODEL_REVISION = "refs/pr/15"
FORMATS = ("parquet", "webdataset")
DTYPES = ("auto", "float32", "bfloat16", "float16")
COMPILE_CHOICES = ("auto", "yes", "no")
DECODE_DEVICES = ("cpu", "cuda")
ENGINES = ("local", "ray")
# A task is at most this many frames of one clip, so memory is bounded for any video.
FRAMES_PER_TASK = 64
# Of a process that decodes, resident; an 8-hour file of 4K takes less than half of it.
WORKER_MEMORY_MIB = 1536
# torch and torchcodec take 330 before any work.
MIN_WORKER_MEMORY_MIB = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeConfig:
    """Annotations and videos in, parts out."""

    annotations: tuple[Path, ...] = ()
    """Empty means those of the version, fetched."""
    videos: Path | None = None
    work: Path
    """Directory of the stored configuration, the plan and the parts."""
    clip_source: str | None = None
    """`cvdf` streams its archives; the videos directory comes first where both are given."""
    version: str | None = None
    """Release of Kinetics: which archives there are, and which annotations to fetch."""
    base_url: str = CVDF_URL
    """CVDF's address, that of a mirror, or a directory with the same tree."""
    cache: Path | None = None
    """Directory of fetched annotations; None means the user's cache."""
    annotations_url: str = DEEPMIND_URL
    """Address of DeepMind's annotations, or a directory with them."""
    retry_errors: tuple[str, ...] | None = None
    """Reasons for which failed clips are tried again: empty for all, None for none."""
    model: str = DEFAULT_MODEL
    revision: str | None = None
    splits: tuple[str, ...] = ()
    """Empty means every split the annotations hold."""
    class_list: str = "auto"
    """`auto`, `400`, `600`, `700` or a text file with one class name a line."""
    frames_per_second: float = 1.0
    rows_per_part: int = 500
    batch_size: int | None = None
    dtype: str = "auto"
    compile: str = "auto"
    """`auto` compiles the model where there is a compiler and enough work to pay for it."""
    device: str = "auto"
    decode_device: str = "cpu"
    """`cuda` decodes with NVDEC, where torchcodec was built with it."""
    encode_lanes: int | None = None
    """Batches in the encoder at a time; None means one for each core, or two on a GPU."""
    decode_workers: int | None = None
    """Processes that decode; None means as many as there are cores."""
    task_timeout_seconds: float = 120.0
    worker_memory_mib: int = WORKER_MEMORY_MIB
    """Resident memory at which a process that decodes is stopped."""
    seed: int = 0
    rank: int | None = None
    """None, like `world_size`, means what Slurm says, else 0 of 1."""
    world_size: int | None = None
    engine: str = "local"
    """`ray` makes the parts tasks of a Ray cluster."""
    ray_address: str | None = None
    """HOST:PORT, `auto` or `local`; None means RAY_ADDRESS, the cluster that `ray start` began on
    this machine, else one for this run."""
    ray_cpus: int | None = None
    """CPUs of one task; None means those of the smallest node, shared among its GPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssembleConfig:
    """Parts, or a processed dataset, in; the published layout out."""

    source: Path
    output: Path
    samples_per_shard: int = SAMPLES_PER_SHARD
    formats: tuple[str, ...] = FORMATS
    seed: int | None = None
    """Orders a processed dataset, 0 if None; parts come with the order of their plan."""
    class_list: str | None = None
    """Class list of a processed dataset, `auto` if None; parts come with theirs."""
    max_failures: float = 0.5
    date: str | None = None
    """Written to the manifest as it is; None writes none, so that bytes do not tell the time."""
    figures: bool = True
    """The card's pictures are drawn; they need matplotlib."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """A dataset of any dialect, to be read."""

    source: str
    """Directory, fsspec URL, repository of the Hub, or one tar."""
    index: str | None = None
    """Index of the source that lies elsewhere than in it."""
    revision: str | None = None
    """Branch, tag or commit of a repository."""
    on_error: OnError = "raise"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertConfig:
    """A dataset of any dialect in, the published layout out."""

    source: SourceConfig
    output: Path
    class_list: str = "auto"
    """`auto`, `400`, `600`, `700` or a text file, for a source that does not number its labels."""
    samples_per_shard: int = SAMPLES_PER_SHARD
    formats: tuple[str, ...] = FORMATS
    max_failures: float = 0.5
    date: str | None = None
    figures: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadConfig:
    """Which clips of Kinetics, from where, into which directory."""

    output: Path
    annotations: tuple[Path, ...] = ()
    """Empty means those of the version, fetched."""
    version: str | None = None
    splits: tuple[str, ...] = ()
    """Empty means every split the annotations hold."""
    classes: tuple[str, ...] = ()
    """Empty means all."""
    max_samples: int | None = None
    """Of each split; what is on disk counts first."""
    shuffle: bool = False
    """Random clips instead of those that cost least to get."""
    seed: int = 0
    num_workers: int = 4
    """Clips or archives at a time; YouTube is asked for one at a time."""
    source: tuple[str, ...] = ("cvdf",)
    """Directories, `cvdf`, `youtube`, in the order in which they are asked."""
    base_url: str = CVDF_URL
    annotations_url: str = DEEPMIND_URL
    cache: Path | None = None
    retry_errors: tuple[str, ...] | None = None
    cookies: Path | None = None
    """Netscape file of a browser that is signed in to YouTube."""
    youtube_interval: float = 5.0
    """Seconds between the begins of two downloads from YouTube."""
    youtube_address: str = "https://www.youtube.com/watch?v={id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PushConfig:
    """A finished dataset in, a repository of the Hub out."""

    directory: Path
    repository: str
    """NAMESPACE/NAME."""
    private: bool = False
    """Of a repository that is created; one that is there stays what it is."""
    revision: str | None = None
    """Branch, created from the main one if it is not there; None is the main one."""
    message: str | None = None
    """Of the commit; None tells the number of clips and the manifest."""
    create_pr: bool = False
    """A pull request instead of a commit on the branch."""
    token_file: Path | None = None
    """None means HF_TOKEN, else the token of `hf auth login`."""
    max_workers: int = 3
    """Files that are sent at a time; Xet holds about 150 MB for each."""
    keep_extra: bool = False
    """Files of the repository that are not of the dataset stay."""
    dry_run: bool = False
    timeout_seconds: float = 120.0
    """Of silence, after which a connection to the Hub is given up."""
    first_pause_seconds: float = 1.0
    """Before the second attempt; twice as long before each one after."""


ProbeProtocol = Literal["card", "mean-pooled"]
PROBE_PROTOCOLS: tuple[str, ...] = get_args(ProbeProtocol)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """Which text model, and whether it must belong to the embeddings."""

    model: str | None = None
    """Hub id or directory of a whole CLIP; None is that of the published class texts, if there
    are any, else the one that the manifest records, else the builds' default."""
    model_revision: str | None = None
    prompts: Path | None = None
    """Text file with a prompt a line; None is OpenAI's list for Kinetics-700."""
    force: bool = False
    """Use a text model of another family than the embeddings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """What is common to every evaluation."""

    source: SourceConfig
    split: str = "validation"
    classes: str | None = None
    """`400`, `600`, `700` or a text file; None is the manifest's list, or else that of 700."""
    seed: int = 0
    quiet: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroShotConfig:
    """Frames and texts in, how often the nearest text is the class out."""

    evaluation: EvaluationConfig
    text: TextConfig = TextConfig()
    protocol: Protocol = "card"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeConfig:
    """Frames of train and of another split in, how well a linear classifier tells classes out."""

    evaluation: EvaluationConfig
    protocol: ProbeProtocol = "card"
    train_fraction: float = 1.0
    """Share of the labelled clips of train that is taken, at random."""
    held_out: float = 0.1
    """Share of those that chooses C, in the protocol `mean-pooled`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """Texts in, the clips of which a frame is nearest out."""

    source: SourceConfig
    text: TextConfig = TextConfig()
    split: str | None = None
    """None is all."""
    top: int = 20
    quiet: bool = False
