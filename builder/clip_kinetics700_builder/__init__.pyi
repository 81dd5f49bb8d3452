# Made of the options: python -m clip_kinetics700_builder.cli.reference types
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from clip_kinetics700.texts import ClassTexts
from clip_kinetics700_builder.api import AnyPath, Bars, Built
from clip_kinetics700_builder.build import EncodeSummary
from clip_kinetics700_builder.dataset.manifest import Manifest
from clip_kinetics700_builder.dataset.problems import Problem
from clip_kinetics700_builder.download.run import DownloadSummary
from clip_kinetics700_builder.evaluate.results import Evaluation
from clip_kinetics700_builder.evaluate.search import Hit
from clip_kinetics700_builder.hub.push import Published
from clip_kinetics700_builder.types import BuildError, InputError

ERRORS: tuple[str, ...]
FUNCTIONS: tuple[str, ...]
__all__ = [
    "BuildError",
    "InputError",
    "assemble",
    "build",
    "convert",
    "download",
    "embed_classes",
    "encode",
    "evaluate_linear_probe",
    "evaluate_zero_shot",
    "main",
    "push",
    "search",
    "verify",
    "write_card",
]

def assemble(
    source: AnyPath,
    output: AnyPath,
    *,
    seed: int | None = None,
    class_list: str | None = None,
    samples_per_shard: int = 10000,
    formats: str | Iterable[str] = ("parquet", "webdataset"),
    date: str | None = None,
    figures: bool = True,
    progress: Bars = False,
) -> Manifest: ...
def build(
    output: AnyPath,
    *,
    annotations: AnyPath | Iterable[AnyPath] = (),
    version: Literal["400", "600", "700", "700-2020"] | None = None,
    base_url: str = "https://s3.amazonaws.com/kinetics/",
    annotations_url: str = ...,
    cache: AnyPath | None = None,
    splits: str | Iterable[str] = (),
    videos: AnyPath | None = None,
    source: Literal["cvdf"] | None = None,
    class_list: str = "auto",
    frames_per_second: float = 1.0,
    seed: int = 0,
    model: str = "openai/clip-vit-base-patch32",
    revision: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    compile: Literal["auto", "yes", "no"] = "auto",
    batch_size: int | None = None,
    device: str = "auto",
    decode_device: Literal["cpu", "cuda"] = "cpu",
    retry_errors: str | Iterable[str] | None = None,
    rows_per_part: int = 500,
    encode_lanes: int | None = None,
    decode_workers: int | None = None,
    task_timeout: float = 120.0,
    worker_memory: int = 1536,
    rank: int | None = None,
    world_size: int | None = None,
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    ray_cpus: int | None = None,
    samples_per_shard: int = 10000,
    formats: str | Iterable[str] = ("parquet", "webdataset"),
    date: str | None = None,
    figures: bool = True,
    progress: Bars = False,
) -> Built: ...
def convert(
    source: AnyPath,
    output: AnyPath,
    *,
    index: str | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    revision: str | None = None,
    class_list: str | None = None,
    samples_per_shard: int = 10000,
    formats: str | Iterable[str] = ("parquet", "webdataset"),
    date: str | None = None,
    figures: bool = True,
    progress: Bars = False,
) -> Manifest: ...
def download(
    output: AnyPath,
    *,
    annotations: AnyPath | Iterable[AnyPath] = (),
    version: Literal["400", "600", "700", "700-2020"] | None = None,
    base_url: str = "https://s3.amazonaws.com/kinetics/",
    annotations_url: str = ...,
    cache: AnyPath | None = None,
    splits: str | Iterable[str] = (),
    classes: str | Iterable[str] = (),
    max_samples: int | None = None,
    shuffle: bool = False,
    seed: int = 0,
    num_workers: int = 4,
    source: str | Iterable[str] = ("cvdf",),
    cookies: AnyPath | None = None,
    youtube_interval: float = 5.0,
    retry_errors: str | Iterable[str] | None = None,
    progress: Bars = False,
) -> DownloadSummary: ...
def embed_classes(
    directory: AnyPath,
    *,
    prompts: AnyPath | None = None,
    model: str | None = None,
    model_revision: str | None = None,
    force: bool = False,
    progress: Bars = False,
) -> ClassTexts: ...
def encode(
    output: AnyPath,
    *,
    annotations: AnyPath | Iterable[AnyPath] = (),
    version: Literal["400", "600", "700", "700-2020"] | None = None,
    base_url: str = "https://s3.amazonaws.com/kinetics/",
    annotations_url: str = ...,
    cache: AnyPath | None = None,
    splits: str | Iterable[str] = (),
    videos: AnyPath | None = None,
    source: Literal["cvdf"] | None = None,
    class_list: str = "auto",
    frames_per_second: float = 1.0,
    seed: int = 0,
    model: str = "openai/clip-vit-base-patch32",
    revision: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    compile: Literal["auto", "yes", "no"] = "auto",
    batch_size: int | None = None,
    device: str = "auto",
    decode_device: Literal["cpu", "cuda"] = "cpu",
    retry_errors: str | Iterable[str] | None = None,
    rows_per_part: int = 500,
    encode_lanes: int | None = None,
    decode_workers: int | None = None,
    task_timeout: float = 120.0,
    worker_memory: int = 1536,
    rank: int | None = None,
    world_size: int | None = None,
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    ray_cpus: int | None = None,
    progress: Bars = False,
) -> EncodeSummary: ...
def evaluate_linear_probe(
    source: AnyPath,
    *,
    index: str | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    revision: str | None = None,
    split: str = "validation",
    classes: str | None = None,
    seed: int = 0,
    protocol: Literal["card", "mean-pooled"] = "card",
    train_fraction: float = 1.0,
    progress: Bars = False,
) -> Evaluation: ...
def evaluate_zero_shot(
    source: AnyPath,
    *,
    index: str | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    revision: str | None = None,
    split: str = "validation",
    classes: str | None = None,
    seed: int = 0,
    prompts: AnyPath | None = None,
    model: str | None = None,
    model_revision: str | None = None,
    force: bool = False,
    protocol: Literal["card", "mean-embedding", "center-frame"] = "card",
    progress: Bars = False,
) -> Evaluation: ...
def push(
    directory: AnyPath,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    create_pr: bool = False,
    token_file: AnyPath | None = None,
    max_workers: int = 3,
    keep_extra: bool = False,
    dry_run: bool = False,
    progress: Bars = False,
) -> Published: ...
def search(
    source: AnyPath,
    texts: str | Iterable[str],
    *,
    index: str | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    revision: str | None = None,
    model: str | None = None,
    model_revision: str | None = None,
    force: bool = False,
    split: str | None = None,
    top: int = 20,
    progress: Bars = False,
) -> list[list[Hit]]: ...
def verify(
    source: AnyPath,
    *,
    revision: str | None = None,
    force_download: bool = False,
    progress: Bars = False,
) -> list[Problem]: ...
def write_card(
    directory: AnyPath,
    *,
    evaluations: AnyPath | Iterable[AnyPath] = (),
) -> Path: ...
def main() -> None: ...
