"""The Python API is the command line's equal: one function a command, options as keyword arguments.

A function is silent but for warnings and returns what came of it. It raises `InputError` for what
cannot be used and `BuildError` for a run that failed. The package gives all of them by name.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from clip_kinetics700_builder.config import (
    AssembleConfig,
    ConvertConfig,
    DownloadConfig,
    EncodeConfig,
    ProbeConfig,
    PushConfig,
    SearchConfig,
    SourceConfig,
    TextConfig,
    ZeroShotConfig,
)
from clip_kinetics700_builder.option import list_options, make_config, name_option, read_value
from clip_kinetics700_builder.system.children import refuse_children
from clip_kinetics700_builder.types import BuildError

if TYPE_CHECKING:
    from clip_kinetics700.texts import ClassTexts
    from clip_kinetics700_builder.build import EncodeSummary
    from clip_kinetics700_builder.dataset.manifest import Manifest
    from clip_kinetics700_builder.dataset.problems import Problem
    from clip_kinetics700_builder.download.run import DownloadSummary
    from clip_kinetics700_builder.evaluate.results import Evaluation
    from clip_kinetics700_builder.evaluate.search import Hit
    from clip_kinetics700_builder.hub.push import Published
    from clip_kinetics700_builder.system.progress import Progress

AnyPath = str | os.PathLike[str]
Bars: TypeAlias = "Progress | bool"
"""False shows nothing, True shows bars, a `Progress` shows what it likes."""
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Built:
    """What came of a build."""

    encoded: "EncodeSummary"
    manifest: "Manifest | None"
    """The finished dataset's; None while parts are left for other ranks."""


def build(output: AnyPath, *, progress: Bars = False, **options: Any) -> Built:
    """Encode videos and assemble the dataset in `output`; options are those of `build`.

    Raises:
        InputError: an option, a file or the model cannot be used.
        BuildError: the run failed; the same call goes on.
    """
    kinds = EncodeConfig, AssembleConfig
    values = read_options("build", kinds, options, AssembleConfig=("seed", "class_list"))
    from clip_kinetics700_builder.build import build as build_dataset
    from clip_kinetics700_builder.dataset.layout import WORK_NAME

    place = Path(output)
    assembly = {**values, "seed": None, "class_list": None}
    return Built(
        *build_dataset(
            make_config(EncodeConfig, values, work=place / WORK_NAME),
            make_config(AssembleConfig, assembly, source=place, output=place),
            progress=choose_progress(progress),
        )
    )


def encode(output: AnyPath, *, progress: Bars = False, **options: Any) -> "EncodeSummary":
    """Encode annotations and videos into parts in `output`; options are those of `encode`."""
    values = read_options("encode", (EncodeConfig,), options)
    from clip_kinetics700_builder.build import encode as encode_parts

    config = make_config(EncodeConfig, values, work=Path(output))
    return encode_parts(config, progress=choose_progress(progress))


def assemble(
    source: AnyPath, output: AnyPath, *, progress: Bars = False, **options: Any
) -> "Manifest":
    """Assemble parts, or a processed dataset, into the published layout; return its manifest."""
    values = read_options("assemble", (AssembleConfig,), options)
    from clip_kinetics700_builder.assemble.assemble import assemble_directory

    config = make_config(AssembleConfig, values, source=Path(source), output=Path(output))
    return assemble_directory(config, progress=choose_progress(progress))


def convert(
    source: AnyPath, output: AnyPath, *, progress: Bars = False, **options: Any
) -> "Manifest":
    """Rewrite a dataset of any dialect into the published layout; return its manifest.

    Raises:
        InputError: the source cannot be read, or the output is in the way.
        BuildError: verification of what was written finds something.
    """
    values = read_options("convert", (ConvertConfig,), options, ConvertConfig=("seed",))
    from clip_kinetics700_builder.convert.convert import convert as convert_dataset

    place = Path(output)
    config = ConvertConfig(
        source=make_config(SourceConfig, values, source=os.fspath(source)),
        assembly=make_config(AssembleConfig, values, source=Path(source), output=place),
    )
    manifest, problems = convert_dataset(config, progress=choose_progress(progress))
    if problems:
        lines = [f"{problem.file}: {problem.message}" for problem in problems[:SHOWN]]
        raise BuildError(f"{place}: {len(problems)} problems; {'; '.join(lines)}")
    return manifest


def download(output: AnyPath, *, progress: Bars = False, **options: Any) -> "DownloadSummary":
    """Get clips of Kinetics into a directory; options are those of `download`."""
    values = read_options("download", (DownloadConfig,), options)
    from clip_kinetics700_builder.download.download import download as download_clips

    config = make_config(DownloadConfig, values, output=Path(output))
    return download_clips(config, progress=choose_progress(progress))


def verify(
    source: AnyPath,
    *,
    revision: str | None = None,
    force_download: bool = False,
    progress: Bars = False,
) -> "list[Problem]":
    """Return everything that is wrong with a dataset, a directory or a repository of the Hub."""
    refuse_children()
    from clip_kinetics700_builder.hub.snapshot import fetch_snapshot, find_repository
    from clip_kinetics700_builder.verify.dataset import verify_dataset

    show = choose_progress(progress)
    place = find_repository(os.fspath(source), revision, repairs=force_download)
    if place is None:
        return verify_dataset(Path(source), progress=show)
    snapshot = fetch_snapshot(place, repairs=force_download, progress=show)
    names = sorted(snapshot.repository.files)
    return verify_dataset(snapshot.directory, names=names, progress=show)


def push(
    directory: AnyPath, repository: str, *, progress: Bars = False, **options: Any
) -> "Published":
    """Publish a finished dataset as a repository of the Hub, in one commit."""
    values = read_options("push", (PushConfig,), options)
    from clip_kinetics700_builder.hub.push import push as push_dataset

    config = make_config(PushConfig, values, directory=Path(directory), repository=repository)
    return push_dataset(config, progress=choose_progress(progress))


def write_card(directory: AnyPath, *, evaluations: Sequence[AnyPath] = ()) -> Path:
    """Write README.md of a finished dataset again, with results of evaluations; return its path."""
    from clip_kinetics700_builder.card.render import write_card as write_readme

    return write_readme(Path(directory), [Path(file) for file in evaluations])


def embed_classes(directory: AnyPath, *, progress: Bars = False, **options: Any) -> "ClassTexts":
    """Write the text embeddings of the classes into a dataset, and return them."""
    values = read_options("embed_classes", (TextConfig,), options)
    from clip_kinetics700_builder.evaluate.class_texts import embed_classes as embed_names

    config = make_config(TextConfig, values)
    return embed_names(Path(directory), config, progress=choose_progress(progress))


def evaluate_zero_shot(source: AnyPath, *, progress: Bars = False, **options: Any) -> "Evaluation":
    """Take for each clip the class whose text is nearest, and count."""
    values = read_options("evaluate_zero_shot", (ZeroShotConfig,), options)
    from clip_kinetics700_builder.evaluate.zero_shot import evaluate_zero_shot as evaluate

    config = make_config(ZeroShotConfig, {**values, "source": os.fspath(source)})
    return evaluate(config, progress=choose_progress(progress))


def evaluate_linear_probe(
    source: AnyPath, *, progress: Bars = False, **options: Any
) -> "Evaluation":
    """Train a linear classifier on the frames of train, and count on another split."""
    values = read_options("evaluate_linear_probe", (ProbeConfig,), options)
    from clip_kinetics700_builder.evaluate.linear_probe import evaluate_linear_probe as evaluate

    config = make_config(ProbeConfig, {**values, "source": os.fspath(source)})
    return evaluate(config, progress=choose_progress(progress))


def search(
    source: AnyPath, texts: Sequence[str], *, progress: Bars = False, **options: Any
) -> "list[list[Hit]]":
    """Return, for each text, the clips that have the frame nearest to it, the best first."""
    values = read_options("search", (SearchConfig,), options, SearchConfig=("prompts",))
    from clip_kinetics700_builder.evaluate.search import search as search_frames

    config = make_config(SearchConfig, {**values, "source": os.fspath(source)})
    return search_frames(config, texts, progress=choose_progress(progress))


def read_options(
    function: str, kinds: Sequence[type[Any]], options: Mapping[str, Any], **left_out: Sequence[str]
) -> dict[str, Any]:
    """Return the values of options by the name of their field, checked.

    Args:
        function: what was called, for messages.
        kinds: configurations whose options it takes.
        options: what was given.
        left_out: by the name of a configuration, fields that are no option of this function.

    Raises:
        TypeError: there is no such option.
        InputError: a value is not allowed.
    """
    refuse_children()
    known = {
        name_option(item): (item, hint)
        for kind in kinds
        for item, hint in list_options(kind)
        if item.name not in left_out.get(kind.__name__, ())
    }
    for name in options.keys() - known.keys():
        allowed = ", ".join(sorted(known))
        raise TypeError(f"{function}() has no option {name!r}; it has {allowed}")
    pairs = ((*known[name], value) for name, value in options.items())
    return {item.name: read_value(item, hint, value) for item, hint, value in pairs}


def choose_progress(progress: Bars) -> "Progress":
    """Return what shows the progress."""
    from clip_kinetics700_builder.system.progress import no_progress, track_progress

    if isinstance(progress, bool):
        return track_progress if progress else no_progress
    return progress
