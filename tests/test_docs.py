"""The examples of README and docs/ run as they stand there, and their links lead somewhere."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.datasets.builds import SAMPLES_PER_SHARD, run_cli
from tests.support.datasets.dialects import write_flat_upstream
from tests.support.datasets.evaluations import write_prompt
from tests.support.kinetics.miniature import MiniKinetics
from tests.support.processes.checkout import PROJECT, SOURCE_PATHS

README = PROJECT / "README.md"
PAGES = (README, *sorted((PROJECT / "docs").glob("*.md")))
LINKED = (*PAGES, PROJECT / "CONTRIBUTING.md", PROJECT / "CHANGELOG.md", PROJECT / "SECURITY.md")
MAX_README_LINES = 180

BLOCK = re.compile(
    r"^(?P<mark><!-- not run: [^\n]+ -->\n\n?)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str
    runs: bool
    """No comment above it says that it is not run."""


def list_blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page in their order."""
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        yield Block(match["language"], match["text"], match["mark"] is None)


def list_programs(page: Path) -> list[Block]:
    """Return the blocks of a page that run, with the tables that they read."""
    return [block for block in list_blocks(page) if block.language in ("csv", "python", "sh")]


def is_guarded(block: Block) -> bool:
    """Tell whether a block has a main guard."""
    return "__main__" in block.text


def is_script(block: Block) -> bool:
    """Tell whether a block is a whole program, with a main guard."""
    return block.runs and is_guarded(block)


SCRIPT_PAGES = [page for page in PAGES if any(map(is_script, list_programs(page)))]
RUN_PAGES = [page for page in PAGES if any(block.runs for block in list_programs(page))]


def name_page(page: Path) -> str:
    """Return the name of a page for pytest."""
    return page.relative_to(PROJECT).as_posix()


@pytest.fixture
def more_words(tmp_path: Path, random_model: Path, whole_clip: Path) -> dict[str, list[str]]:
    """Return what each command is given besides: models that need no network, and small sizes."""
    build = ["--model", str(random_model), "--dtype", "float32", "--batch-size", "8"]
    build += ["--decode-workers", "1", "--samples-per-shard", str(SAMPLES_PER_SHARD)]
    prompt = str(write_prompt(tmp_path))
    return {
        "build": [*build, "--no-figures"],
        "convert": ["--no-figures"],
        "embed-classes": ["--model", str(whole_clip), "--prompts", prompt],
        "evaluate": ["--prompts", prompt],
    }


@pytest.fixture
def place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dataset: Path,
    mini_kinetics: MiniKinetics,
) -> Path:
    """Return the working directory, in which the names that the pages use are what they say."""
    place = tmp_path / "place"
    shutil.copytree(dataset, place / "CLIP-Kinetics700")
    shutil.copytree(dataset, place / "OWNER/CLIP-Kinetics700")
    write_flat_upstream(place / "iejMac/CLIP-Kinetics700")
    (place / "kinetics700").mkdir()
    (place / "kinetics700/annotations").symlink_to(mini_kinetics.annotations)
    (place / "kinetics700/videos").symlink_to(mini_kinetics.videos)
    video = next(mini_kinetics.videos.rglob("yoga-yoga-1_*.mp4"))
    for name in ("kitchen/0001.mp4", "garden/0002.mov"):
        (place / "my_videos" / name).parent.mkdir(parents=True)
        shutil.copyfile(video, place / "my_videos" / name)
    monkeypatch.chdir(place)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return place


@pytest.mark.needs_ffmpeg
@pytest.mark.parametrize("page", RUN_PAGES, ids=name_page)
def test_examples_run(page: Path, place: Path, more_words: dict[str, list[str]]) -> None:
    """The Python and shell blocks of a page run one after the other, as a reader types them."""
    names: dict[str, Any] = {}
    for block in filter(lambda block: block.runs, list_programs(page)):
        if block.language == "csv":
            (place / "videos.csv").write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            script = place / "example.py"
            script.write_text(block.text, encoding="utf-8")
            names = runpy.run_path(str(script), names)
        else:
            for words in read_commands(block.text):
                outcome = run_cli(*words, *more_words.get(words[0], ()))
                assert outcome.returncode == 0, (words, outcome.stderr)


@pytest.mark.slow
@pytest.mark.needs_ffmpeg
@pytest.mark.parametrize("page", SCRIPT_PAGES, ids=name_page)
def test_scripts_run(page: Path, place: Path) -> None:
    """Each block with a main guard runs by itself as a file, whose workers import it again."""
    for block in filter(is_script, list_programs(page)):
        script = place / "example.py"
        script.write_text(block.text, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, str(script)],
            env={**os.environ, "PYTHONPATH": SOURCE_PATHS},
            cwd=place, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_workers_are_started_under_a_guard() -> None:
    """No block of a page starts the workers of a DataLoader where they would start their own."""
    blocks = [
        block for page in PAGES for block in list_programs(page) if "num_workers" in block.text
    ]
    assert len(blocks) >= 3
    assert all(map(is_guarded, blocks))


def read_commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command in a shell block, without the program's name."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            assert words[0] == "clip-kinetics700", f"{line!r} is of another program: not run, why?"
            yield words[1:]


def test_examples_are_as_many_as_before() -> None:
    """Most examples run; those that do not say why, and there are few of them."""
    programs = [block for page in PAGES for block in list_programs(page)]
    assert sum(block.runs and block.language == "python" for block in programs) >= 15
    assert sum(block.runs and block.language == "sh" for block in programs) >= 10
    assert sum(not block.runs for block in programs) <= 21


def test_the_readme_is_read_in_two_minutes() -> None:
    """It has at most 180 lines, and its first example opens the dataset that is hosted today."""
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES
    first = next(block for block in list_blocks(README) if block.language == "python")
    assert 'clip_kinetics700.open("iejMac/CLIP-Kinetics700")' in first.text


def test_every_page_is_on_the_map() -> None:
    """A reader finds each page of docs/ from docs/index.md, and from the README."""
    for page in (README, PROJECT / "docs/index.md"):
        links = {link.partition("#")[0].split("/")[-1] for link in list_links(page)}
        assert {other.name for other in PAGES[1:]} - {page.name} <= links


@pytest.mark.parametrize("page", LINKED, ids=name_page)
def test_links_lead_somewhere(page: Path) -> None:
    """Each link within the checkout names a file that is there and a heading that is in it."""
    for link in list_links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link}: no such file"
        if anchor:
            assert anchor in list_anchors(target), f"{link}: no such heading"


def list_links(page: Path) -> list[str]:
    """Return the links of a page within the checkout; what stands in code is none."""
    text = re.sub(r"`[^`\n]*`", "", BLOCK.sub("", page.read_text(encoding="utf-8")))
    return [link for link in LINK.findall(text) if not link.startswith(("http:", "https:"))]


def list_anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site spell them."""
    headings = HEADING.findall(BLOCK.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
