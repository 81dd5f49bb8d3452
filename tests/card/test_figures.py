"""The card's pictures show the manifest's numbers, and nothing else decides their bytes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clip_kinetics700_builder.assemble.assemble import assemble
from clip_kinetics700_builder.card.figures import choose_numbers, draw, require_drawing
from clip_kinetics700_builder.config import AssembleConfig
from clip_kinetics700_builder.dataset.layout import CLASS_BALANCE, FIGURES, FRAMES_PER_CLIP
from clip_kinetics700_builder.dataset.totals import Totals
from clip_kinetics700_builder.types import BuildError, InputError
from clip_kinetics700_builder.verify.dataset import verify_dataset
from tests.support.damage.datasets import SmallRows, make_dataset
from tests.support.datasets.cards import load_manifest
from tests.support.processes.checkout import PROJECT, SOURCE_PATHS


def read_numbers(path: Path) -> dict[str, Any]:
    """Return what a picture says it shows; it is wide enough for a card."""
    with Image.open(path) as image:
        assert image.size[0] == 1600
        assert image.text.keys() == {"Description"}  # type: ignore[attr-defined]  # of PNG
        return dict(json.loads(image.text["Description"]))  # type: ignore[attr-defined]  # of PNG


def test_pictures_show_the_manifests_numbers(illustrated: Path) -> None:
    """The numbers in the pictures are those of the manifest, and these of the samples."""
    manifest = load_manifest(illustrated)
    splits = manifest["totals"]["splits"]
    balance = read_numbers(illustrated / CLASS_BALANCE)
    assert balance["class_names"] == manifest["class_names"]
    for split in ("train", "validation"):
        assert balance["samples_by_label"][split] == splits[split]["samples_by_label"]
        assert sum(splits[split]["samples_by_label"]) == splits[split]["samples"]
    assert "test" not in balance["samples_by_label"]
    lengths = read_numbers(illustrated / FRAMES_PER_CLIP)["samples_by_n_frames"]
    assert lengths == {split: totals["samples_by_n_frames"] for split, totals in splits.items()}
    for split, counts in lengths.items():
        assert sum(counts.values()) == splits[split]["samples"]
        assert sum(int(n) * count for n, count in counts.items()) == splits[split]["frames"]


def test_the_same_numbers_are_the_same_bytes(
    illustrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn again, where the user has settings of matplotlib, pictures have the same bytes."""
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nsavefig.dpi: 50\naxes.grid: True\n")
    monkeypatch.chdir(tmp_path)
    numbers = {name: read_numbers(illustrated / name) for name in FIGURES}
    for name, content in draw(numbers).items():
        assert content == (illustrated / name).read_bytes(), name


def test_pictures_are_files_of_the_dataset(illustrated: Path, tmp_path: Path) -> None:
    """The manifest lists them; one that is changed or gone is found by verification."""
    files = load_manifest(illustrated)["files"]
    assert [files[name]["rows"] for name in FIGURES] == [0, 0]
    assert verify_dataset(illustrated) == []
    copy = Path(shutil.copytree(illustrated, tmp_path / "copy"))
    (copy / FRAMES_PER_CLIP).unlink()
    path = copy / CLASS_BALANCE
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    problems = {problem.file: problem.message for problem in verify_dataset(copy)}
    assert problems.keys() == {*FIGURES}
    assert problems[FRAMES_PER_CLIP] == "is missing"
    assert "has the sha256" in problems[CLASS_BALANCE]


def test_stale_pictures_go(illustrated: Path, tmp_path: Path) -> None:
    """An assembly without pictures removes those of an earlier one, cut-off ones too."""
    output = tmp_path / "out"
    make_dataset(output)
    (output / "figures").mkdir()
    for name in FIGURES:
        shutil.copy(illustrated / name, output / name)
        shutil.copy(illustrated / name, output / f"{name}.partial")
    make_dataset(output)
    assert list((output / "figures").iterdir()) == []
    assert verify_dataset(output) == []


@pytest.mark.slow
def test_the_assembling_process_stays_small(tmp_path: Path) -> None:
    """The process that draws loads matplotlib, alone, and says nothing of its caches."""
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from clip_kinetics700_builder.assemble.assemble import assemble\n"
        "from clip_kinetics700_builder.config import AssembleConfig\n"
        "from tests.support.damage.datasets import SmallRows\n"
        "out = Path(sys.argv[1])\nassemble(SmallRows(), AssembleConfig(source=out, output=out))\n"
        "print('matplotlib' in sys.modules, *sorted(p.name for p in out.glob('figures/*')))\n"
    )
    (tmp_path / "no_folder").touch()
    environment = {
        **os.environ,
        "PYTHONPATH": SOURCE_PATHS,
        "MPLCONFIGDIR": str(tmp_path / "no_folder"),
    }
    words = [sys.executable, "-c", program, str(tmp_path / "out")]
    result = subprocess.run(
        words, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["False", "class_balance.png", "frames_per_clip.png"]
    assert result.stderr == ""


def test_a_lost_process_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    """A process that ends without pictures ends the run with what can be done about it."""
    with pytest.raises(BuildError, match="ended with exit code 1; run it again to go on"):
        draw({"figures/unknown.png": {}})
    assert "KeyError" in capfd.readouterr().err


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    """A file where the folder of the pictures belongs is an error that names it."""
    (tmp_path / "figures").write_text("in the way")
    config = AssembleConfig(source=tmp_path, output=tmp_path, samples_per_shard=5)
    with pytest.raises(FileExistsError, match="figures"):
        assemble(SmallRows(), config)


def test_a_missing_library_is_told_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without matplotlib the pictures are refused at the start, with both ways out."""
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    with pytest.raises(InputError, match="install the extra `build`, or give --no-figures"):
        require_drawing()


def test_splits_without_clips_are_in_no_picture() -> None:
    """Without labels there is no picture of classes; without samples there is none at all."""
    train = Totals(samples=2, samples_by_label=[0, 2], samples_by_n_frames={"3": 2})
    test = Totals(samples=1, samples_by_label=[0, 0], samples_by_n_frames={"4": 1})
    empty = Totals(samples_by_label=[0, 0], samples_by_n_frames={})
    splits = {"train": train, "validation": empty, "test": test}
    assert choose_numbers(splits, ["a", "b"]) == {
        CLASS_BALANCE: {"class_names": ["a", "b"], "samples_by_label": {"train": [0, 2]}},
        FRAMES_PER_CLIP: {"samples_by_n_frames": {"train": {"3": 2}, "test": {"4": 1}}},
    }
    assert choose_numbers({"train": empty}, ["a", "b"]) == {}
    own = Totals(samples=1, samples_by_n_frames={"4": 1})
    assert choose_numbers({"train": own}, None).keys() == {FRAMES_PER_CLIP}


@pytest.mark.parametrize("lengths", [[1], [1, 2, 40], [1, 41], range(1, 20_000, 7), [10**7]])
def test_clips_of_any_length_are_drawn(tmp_path: Path, lengths: list[int]) -> None:
    """From one frame to days of video a bar is drawn for each length, or for some together."""
    from clip_kinetics700_builder.card import drawing

    numbers = {"samples_by_n_frames": {"train": {str(n): 1 for n in lengths}}}
    (tmp_path / "picture.png").write_bytes(drawing.draw_frames_per_clip(numbers))
    assert read_numbers(tmp_path / "picture.png") == numbers


def test_names_of_any_script_are_drawn(tmp_path: Path) -> None:
    """Class names that are formulas, other scripts or long end no picture."""
    from clip_kinetics700_builder.card import drawing

    names = ["$\\frac{", "跳舞", "é" * 80, "a\nb"]
    numbers = {"class_names": names, "samples_by_label": {"test": [1, 2, 3, 0]}}
    content = drawing.draw_all({CLASS_BALANCE: numbers})[CLASS_BALANCE]
    (tmp_path / "picture.png").write_bytes(content)
    assert read_numbers(tmp_path / "picture.png") == numbers
