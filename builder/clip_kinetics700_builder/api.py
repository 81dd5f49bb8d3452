"""The Python API is the command line's equal: one function a command, options as keyword arguments.

A function is silent but for warnings and returns what came of it. It raises `InputError` for what
cannot be used and `BuildError` for a run that failed. The package gives all of them by name; their
signatures for editors are in `__init__.pyi`, which `cli/reference.py` makes of the options.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import Field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar, get_args

from clip_kinetics700_builder.config import (
    AssembleConfig,
    AttentiveProbeConfig,
    ConvertConfig,
    DownloadConfig,
    EncodeConfig,
    LinearProbeConfig,
    PushConfig,
    SearchConfig,
    SourceConfig,
    TextConfig,
    ZeroShotConfig,
)
from clip_kinetics700_builder.option import (
    Option,
    list_options,
    list_values,
    make_config,
    read_value,
)
from clip_kinetics700_builder.system.children import refuse_children
from clip_kinetics700_builder.types import BuildError, InputError

if TYPE_CHECKING:
    from clip_kinetics700.texts import ClassTexts
    from clip_kinetics700_builder.build import EncodeSummary
    from clip_kinetics700_builder.dataset.manifest import Manifest
    from clip_kinetics700_builder.dataset.problems import Problem
    from clip_kinetics700_builder.download.run import DownloadSummary
    from clip_kinetics700_builder.evaluate.results import Evaluation
    from clip_kinetics700_builder.evaluate.search import Hit
    from clip_kinetics700_builder.hub.push import Published
    from clip_kinetics700_builder.hub.snapshot import Snapshot
    from clip_kinetics700_builder.system.progress import Progress

Result = TypeVar("Result")
AnyPath: TypeAlias = "str | os.PathLike[str]"
Bars: TypeAlias = "Progress | bool"
"""False shows nothing, True shows bars, a `Progress` shows what it likes."""
SHOWN = 3


class Built(NamedTuple):
    """What came of a build."""

    encoded: EncodeSummary
    manifest: Manifest | None
    """The finished dataset's; None while parts are left for other ranks."""


def takes(
    *kinds: type[Any], leave_out: Collection[str] = ()
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Return a decorator that lets a function take the options of configurations, checked.

    The function gets a `Progress`, and values of the type that the configurations have. What calls
    it from a script without a main guard is ended, before it starts all over again.
    """
    options = list_options(*kinds, leave_out=leave_out)

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        plain = inspect.signature(function)
        own = [p for name, p in plain.parameters.items() if name not in ("progress", "options")]
        shows = "progress" in plain.parameters
        keywords = {name: (spell_option(*pair), pair[0].default) for name, pair in options.items()}
        if shows:
            keywords["progress"] = "Bars", False
        kind = inspect.Parameter.KEYWORD_ONLY
        added = [
            inspect.Parameter(name, kind, default=default, annotation=text)
            for name, (text, default) in keywords.items()
        ]
        shape = plain.replace(parameters=[*own, *added])

        @wraps(function)
        def call(*args: Any, **values: Any) -> Result:
            refuse_children()
            for name in values.keys() - shape.parameters.keys():
                known = ", ".join(sorted(shape.parameters))
                raise TypeError(f"{function.__name__}() has no option {name!r}; it has {known}")
            given = shape.bind(*args, **values).arguments
            for name, value in given.items():
                if name in options:
                    given[name] = read_value(*options[name], value)
                elif shape.parameters[name].annotation == "AnyPath":
                    check_path(name, value)
            if shows:
                given["progress"] = choose_progress(given.get("progress", False))
            return function(**given)

        call.__dict__["__signature__"] = shape
        texts = [f"    {name}: {pair[0].metadata['option'].text}" for name, pair in options.items()]
        if texts:
            call.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Options:", *texts])
        return call

    return decorate


# How users may spell values of the types that the fields have.
SPELLINGS: dict[Any, str] = {
    Path: "AnyPath",
    tuple[Path, ...]: "AnyPath | Iterable[AnyPath]",
    tuple[str, ...]: "str | Iterable[str]",
    type(None): "None",
}


def spell_option(item: Field[Any], hint: Any) -> str:
    """Return, as a type in code, what users may give for an option."""
    option: Option = item.metadata["option"]
    if option.choices:
        choices = ", ".join(f'"{word}"' for word in option.choices)
        return f"Literal[{choices}]" + " | None" * (item.default is None)
    kinds = [hint] if hint in SPELLINGS or isinstance(hint, type) else get_args(hint)
    return " | ".join(SPELLINGS.get(kind) or kind.__name__ for kind in kinds)


def check_path(name: str, value: Any) -> None:
    """Refuse what is no path."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise InputError(f"{name}: {value!r}; a path is needed")


def choose_progress(progress: Bars | None) -> Progress:
    """Return what shows the progress."""
    from clip_kinetics700_builder.system.progress import no_progress, track_progress

    if progress is None or isinstance(progress, bool):
        return track_progress if progress else no_progress
    if not callable(progress):
        raise InputError(f"progress: {progress!r}; True, False or a function is needed")
    return progress


@takes(EncodeConfig, AssembleConfig)
def build(output: AnyPath, *, progress: Progress, **options: Any) -> Built:
    """Encode videos and assemble the dataset in `output`: `encode` and `assemble` in one.

    Raises:
        InputError: an option, a file or the model cannot be used.
        BuildError: the run failed; the same call goes on.
    """
    from clip_kinetics700_builder.build import build as build_dataset
    from clip_kinetics700_builder.dataset.layout import WORK_NAME

    place = Path(output)
    encoding = make_config(EncodeConfig, options, work=place / WORK_NAME)
    assembly = make_config(AssembleConfig, options, source=place, output=place)
    return Built(*build_dataset(encoding, assembly, progress=progress))


@takes(EncodeConfig)
def encode(output: AnyPath, *, progress: Progress, **options: Any) -> EncodeSummary:
    """Encode annotations and videos into parts in `output`."""
    from clip_kinetics700_builder.build import encode as encode_parts

    return encode_parts(make_config(EncodeConfig, options, work=Path(output)), progress=progress)


@takes(AssembleConfig, leave_out=("max_failures",))
def assemble(source: AnyPath, output: AnyPath, *, progress: Progress, **options: Any) -> Manifest:
    """Assemble parts, or a processed dataset, into the published layout; return its manifest."""
    from clip_kinetics700_builder.assemble.assemble import assemble_directory

    config = make_config(AssembleConfig, options, source=Path(source), output=Path(output))
    return assemble_directory(config, progress=progress)


@takes(ConvertConfig, leave_out=("seed", "max_failures"))
def convert(source: AnyPath, output: AnyPath, *, progress: Progress, **options: Any) -> Manifest:
    """Rewrite a dataset of any dialect into the published layout; return its manifest.

    Raises:
        InputError: the source cannot be read, or the output is in the way.
        BuildError: verification of what was written finds something.
    """
    from clip_kinetics700_builder.convert.convert import convert as convert_dataset

    config = make_convert_config(source, output, options)
    manifest, problems = convert_dataset(config, progress=progress)
    if problems:
        lines = [f"{problem.file}: {problem.message}" for problem in problems[:SHOWN]]
        raise BuildError(f"{output}: {len(problems)} problems; {'; '.join(lines)}")
    return manifest


def make_convert_config(
    source: AnyPath, output: AnyPath, options: Mapping[str, Any]
) -> ConvertConfig:
    """Return the configuration of a conversion."""
    place = {"source": Path(source), "output": Path(output)}
    return ConvertConfig(
        source=make_config(SourceConfig, options, source=os.fspath(source)),
        assembly=make_config(AssembleConfig, options, **place),
    )


@takes(DownloadConfig)
def download(output: AnyPath, *, progress: Progress, **options: Any) -> DownloadSummary:
    """Get clips of Kinetics into a directory: what is there first, then `source` in order."""
    from clip_kinetics700_builder.download.download import download as download_clips

    config = make_config(DownloadConfig, options, output=Path(output))
    return download_clips(config, progress=progress)


@takes()
def verify(
    source: AnyPath,
    *,
    revision: str | None = None,
    force_download: bool = False,
    progress: Progress,
) -> list[Problem]:
    """Return everything that is wrong with a dataset, a directory or a repository of the Hub.

    Args:
        source: the directory, or the repository, which is fetched into the Hub's cache.
        revision: branch, tag or commit of a Hub repository.
        force_download: fetch again what is damaged in the Hub's cache.
        progress: True shows bars.
    """
    return verify_source(
        os.fspath(source), revision, force_download=force_download, progress=progress
    )[0]


def verify_source(
    source: str, revision: str | None, *, force_download: bool, progress: Progress
) -> tuple[list[Problem], Snapshot | None]:
    """Return what is wrong with a dataset, and its files where they were fetched from the Hub."""
    from clip_kinetics700_builder.hub.snapshot import fetch_snapshot, find_repository
    from clip_kinetics700_builder.verify.dataset import verify_dataset

    place = find_repository(source, revision, repairs=force_download)
    if place is None:
        return verify_dataset(Path(source), progress=progress), None
    snapshot = fetch_snapshot(place, repairs=force_download, progress=progress)
    names = sorted(snapshot.repository.files)
    return verify_dataset(snapshot.directory, names=names, progress=progress), snapshot


@takes(PushConfig)
def push(directory: AnyPath, repository: str, *, progress: Progress, **options: Any) -> Published:
    """Publish a finished dataset as a repository of the Hub, in one commit."""
    from clip_kinetics700_builder.hub.push import push as push_dataset

    config = make_config(PushConfig, options, directory=Path(directory), repository=repository)
    return push_dataset(config, progress=progress)


@takes()
def write_card(directory: AnyPath, *, evaluations: AnyPath | Iterable[AnyPath] = ()) -> Path:
    """Write README.md of a dataset again, with results of evaluations; return its path."""
    from clip_kinetics700_builder.card.render import write_card as write_readme

    return write_readme(Path(directory), list(map(Path, list_values(evaluations))))


@takes(TextConfig)
def embed_classes(directory: AnyPath, *, progress: Progress, **options: Any) -> ClassTexts:
    """Write the text embeddings of the classes into a dataset, and return them."""
    from clip_kinetics700_builder.evaluate.class_texts import embed_classes as embed_names

    return embed_names(Path(directory), make_config(TextConfig, options), progress=progress)


@takes(ZeroShotConfig)
def evaluate_zero_shot(source: AnyPath, *, progress: Progress, **options: Any) -> Evaluation:
    """Take for each clip the class whose text is nearest, and count."""
    from clip_kinetics700_builder.evaluate.zero_shot import evaluate_zero_shot as evaluate

    config = make_config(ZeroShotConfig, {**options, "source": os.fspath(source)})
    return evaluate(config, progress=progress)


@takes(LinearProbeConfig)
def evaluate_linear_probe(source: AnyPath, *, progress: Progress, **options: Any) -> Evaluation:
    """Train a linear classifier on the frames of train, and count on another split."""
    from clip_kinetics700_builder.evaluate.linear_probe import evaluate_linear_probe as evaluate

    config = make_config(LinearProbeConfig, {**options, "source": os.fspath(source)})
    return evaluate(config, progress=progress)


@takes(AttentiveProbeConfig)
def evaluate_attentive_probe(source: AnyPath, *, progress: Progress, **options: Any) -> Evaluation:
    """Train attention over the frames of train, and count on another split."""
    from clip_kinetics700_builder.evaluate.attentive_probe import evaluate_attentive_probe as run

    config = make_config(AttentiveProbeConfig, {**options, "source": os.fspath(source)})
    return run(config, progress=progress)


@takes(SearchConfig, leave_out=("prompts",))
def search(
    source: AnyPath, texts: str | Iterable[str], *, progress: Progress, **options: Any
) -> list[list[Hit]]:
    """Return, for each text, the clips that have the frame nearest to it, the best first."""
    from clip_kinetics700_builder.evaluate.search import search as search_frames

    config = make_config(SearchConfig, {**options, "source": os.fspath(source)})
    return search_frames(config, list_values(texts), progress=progress)
