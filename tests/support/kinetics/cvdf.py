"""`make_cvdf_tree` writes a tree like CVDF's bucket, with the traps of the real one.

`CvdfTree` says what a right download of the tree must bring.
"""

import gzip
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from clip_kinetics700.schema import SPLITS
from tests.support.kinetics.miniature import ROWS, SPLIT_WORDS, MiniKinetics, Row, make_file

BASE_URL = "https://s3.amazonaws.com/kinetics/"
FOLDERS = {"400": "400", "600": "600", "700": "700_2020", "700-2020": "700_2020"}
WORDS = {"train": "train", "validation": "val", "test": "test"}
OVERLAY = "replacement_for_corrupted_k400.tgz"
OVERLAY_FOLDER = "replacement_for_corrupted_k400"
# Six more directories, with names that make the path too long for a plain header.
DEEP = "/".join((*(f"backup_of_somebodys_disk_{number}" for number in range(6)), ""))
TEST_LABELS_600 = ("passing American football (in game)", "yoga")
APPLE_DOUBLE = bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(139)
# A modification time with a fraction, which needs a PAX header, as in archives of the Mac's tar.
MTIME = 1_500_000_000.25

Member = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class CvdfTree:
    """Where the tree lies, and what a right download of all its rows must bring."""

    root: Path
    """The directory that takes the place of CVDF's address."""
    version: str
    annotations: list[Path]
    """Local CSV files: CVDF's of the tree where it has some, else DeepMind's dialect."""
    archives: list[Path]
    """The archives that the lists name, in their order; train, validation, test."""
    overlays: list[Path]
    """Archives whose clips replace those of the others."""
    clips: dict[str, bytes]
    """Bytes of the annotated clips by file name; the empty and the damaged ones are among them."""
    missing: set[str]
    """File names of the rows whose clip no archive holds."""
    extra: set[str]
    """File names of clips that no row asks for."""


@dataclass(frozen=True, slots=True)
class Content:
    """The content of an archive, before the traps."""

    split: str
    file_name: str
    folder: str
    """Directory of the members; empty, or with a slash at its end."""
    clips: list[Member]


def make_cvdf_tree(directory: Path, kinetics: MiniKinetics, version: str) -> CvdfTree:
    """Write a release as CVDF's bucket has it.

    Args:
        directory: the place of the bucket; releases for which CVDF has no annotations have
            DeepMind's in `deepmind` beside the archives.
        kinetics: the miniature Kinetics whose clips are packed.
        version: `400`, `600`, `700` or `700-2020`; both 700s have the archives of 2020.
    """
    folder = directory / FOLDERS[version]
    clips = read_files(kinetics)
    missing = {row.file_name for row in ROWS} - clips.keys()
    archives, extra, n_filled = list[Path](), set[str](), 0
    for number, content in enumerate(list_contents(version, clips)):
        members = list(content.clips)
        if number == 0 or not members:
            name = f"extraclip{number:02d}_000001_000011.mp4"
            members.append((name, clips["9r8wpMS2iEk_000048_000058.mp4"]))
            extra.add(name)
        path = folder / WORDS[content.split] / content.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        # The traps need archives with clips that a test would miss.
        trap = n_filled if content.clips else None
        path.write_bytes(pack_with_trap(content.folder, members, trap))
        n_filled += bool(content.clips)
        archives.append(path)
    write_lists(directory, folder, archives)
    overlays = list[Path]()
    if version == "400":
        good = make_replacement()
        clips |= dict([good])
        overlays.append(folder / OVERLAY)
        overlays[0].write_bytes(pack_gzip(pack_tar([(f"{OVERLAY_FOLDER}/{good[0]}", good[1])])))
    annotations = write_cvdf_annotations(directory, kinetics, version)
    return CvdfTree(directory, version, annotations, archives, overlays, clips, missing, extra)


def read_files(kinetics: MiniKinetics) -> dict[str, bytes]:
    """Return the bytes of the miniature's files by file name."""
    paths = [kinetics.videos / row.split / row.place / row.file_name for row in ROWS]
    return {path.name: path.read_bytes() for path in paths if path.exists()}


def list_contents(version: str, clips: dict[str, bytes]) -> Iterator[Content]:
    """Yield the content of each archive of a release, in the order of the lists."""
    for split in SPLITS:
        rows = [row for row in ROWS if row.split == split]
        labels = sorted({row.label for row in rows})

        def of_rows(rows: Sequence[Row]) -> list[Member]:
            names = [row.file_name for row in rows]
            return [(name, clips[name]) for name in names if name in clips]

        if version == "400":
            for part in range(2):
                yield Content(split, f"part_{part}.tar.gz", "", of_rows(rows)[part::2])
        elif version == "600" and split == "test":
            for part, label in enumerate(TEST_LABELS_600):
                yield Content(split, f"{label}.tar.gz", "", of_rows(rows)[part::2])
        elif split == "test":
            yield Content(split, "k700_test_000.tar.gz", "./", of_rows(rows))
        else:
            # Numbers that follow no order of classes, so that nobody can rely on one.
            for number, label in enumerate(sorted(labels, key=lambda label: label[::-1])):
                held = of_rows([row for row in rows if row.label == label])
                is_600 = version == "600"
                name = label if is_600 else f"k700_{WORDS[split]}_{number:03d}"
                yield Content(split, f"{name}.tar.gz", "" if is_600 else f"{label}/", held)


def pack_with_trap(folder: str, clips: list[Member], trap: int | None) -> bytes:
    """Return an archive of clips; the number says what is odd about it, None that nothing is.

    0: a directory comes first. 1: the clips lie seven directories deep. 2: a plain tar. 3: gzip of
    several members. Even ones have PAX headers and AppleDouble files, odd ones GNU headers.
    """
    members = [(folder + name, data) for name, data in clips]
    if trap == 1:
        below = folder.removeprefix("./") or "more/"
        members = [(DEEP + below + name, data) for name, data in clips]
    if trap is not None and trap % 2 == 0:
        members = [
            member
            for name, data in clips
            for member in ((f"{folder}._{name}", APPLE_DOUBLE), (folder + name, data))
        ]
    tar_format = tarfile.GNU_FORMAT if trap is None or trap % 2 else tarfile.PAX_FORMAT
    data = pack_tar(members, tar_format, first_directory=(folder or "./") if trap == 0 else None)
    if trap == 2:
        return data
    # Gzip ends in the middle of a block, not between two members of the tar.
    return pack_gzip(data[:700]) + pack_gzip(data[700:]) if trap == 3 else pack_gzip(data)


def pack_tar(
    members: Sequence[Member],
    tar_format: int = tarfile.GNU_FORMAT,
    *,
    first_directory: str | None = None,
) -> bytes:
    """Return a tar of files, and of a directory before them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        if first_directory is not None:
            entry = tarfile.TarInfo(first_directory)
            entry.type = tarfile.DIRTYPE
            tar.addfile(entry)
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            entry.mtime = MTIME if tar_format == tarfile.PAX_FORMAT else int(MTIME)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def pack_gzip(data: bytes) -> bytes:
    """Return data in gzip, the same bytes at any time."""
    return gzip.compress(data, 6, mtime=0)


def write_lists(root: Path, folder: Path, archives: Sequence[Path]) -> None:
    """Write the lists of addresses: whole ones, with raw blanks and parentheses."""
    for word in WORDS.values():
        lines = [
            BASE_URL + path.relative_to(root).as_posix() + "\n"
            for path in archives
            if path.parent.name == word
        ]
        path = folder / word / f"k{folder.name}_{word}_path.txt"
        path.write_text("".join(lines), encoding="utf-8")


@cache
def make_replacement() -> Member:
    """Return a sound video of the clip that is damaged in the miniature."""
    number, row = next((n, row) for n, row in enumerate(ROWS) if row.failure == "unreadable")
    with TemporaryDirectory() as directory:
        path = Path(directory, row.file_name)
        make_file(replace(row, failure=None), path, number)
        return row.file_name, path.read_bytes()


def write_cvdf_annotations(root: Path, kinetics: MiniKinetics, version: str) -> list[Path]:
    """Write the annotations where those of the release lie; return them split by split."""
    folder = root / FOLDERS[version] / "annotations"
    if version in {"600", "700"}:
        folder = root / "deepmind"
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for split in SPLITS:
        word = SPLIT_WORDS[split] if folder.name == "deepmind" else WORDS[split]
        paths.append(folder / f"{word}.csv")
        if version == "400":
            write_k400_annotations(paths[-1], split)
        else:
            source = kinetics.annotations / f"{SPLIT_WORDS[split]}.csv"
            paths[-1].write_bytes(source.read_bytes())
    if folder.name == "deepmind":
        name = f"kinetics{version}"
        members = [(f"{name}/{path.name}", path.read_bytes()) for path in paths]
        members += [(f"{name}/{SPLIT_WORDS[split]}.json", render_json(split)) for split in SPLITS]
        (folder / f"{name}.tar.gz").write_bytes(pack_gzip(pack_tar(members)))
    return paths


def write_k400_annotations(path: Path, split: str) -> None:
    """Write CVDF's dialect: `is_cc`, the word `val`, quotes around labels with blanks."""
    columns = ["youtube_id", "time_start", "time_end", "split", "is_cc"]
    lines = [",".join(columns if split == "test" else ["label", *columns])]
    for number, row in enumerate(row for row in ROWS if row.split == split):
        times = f"{row.time_start},{row.time_end}"
        cells = f"{row.youtube_id},{times},{WORDS[split]},{number % 2}"
        label = f'"{row.label}"' if " " in row.label else row.label
        lines.append(cells if split == "test" else f"{label},{cells}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def render_json(split: str) -> bytes:
    """Return a split as DeepMind's JSON has it: one segment for each id."""
    document = {
        row.youtube_id: {
            "annotations": {
                "label": row.label,
                "segment": [float(row.time_start), float(row.time_end)],
            },
            "duration": float(row.time_end - row.time_start),
            "subset": SPLIT_WORDS[split],
            "url": f"https://www.youtube.com/watch?v={row.youtube_id}",
        }
        for row in ROWS
        if row.split == split
    }
    return json.dumps(document).encode("ascii")
