"""A build gets the class list that its labels belong to, or an error says why there is none."""

from pathlib import Path

import pytest

from clip_kinetics700.classes import class_names
from clip_kinetics700_builder.clips.classes import resolve_class_list
from clip_kinetics700_builder.types import Clip, InputError


def kinetics(label: str | None) -> Clip:
    """Return a Kinetics clip with a label."""
    return Clip("train", "abcdefghijk", 0, 10, label, label or "")


def own(label: str | None) -> Clip:
    """Return one's own clip with a label."""
    return Clip("train", "a", None, None, label, label or "", path=f"{label}.mp4")


@pytest.mark.parametrize("version", ["400", "600", "700"])
def test_auto_finds_the_version_of_the_labels(version: str) -> None:
    """All labels of a version lead to its class list, no labels to the newest."""
    assert resolve_class_list([kinetics(None)], "auto") == class_names("700")
    clips = [kinetics(label) for label in class_names(version)]
    assert resolve_class_list(clips, "auto") == class_names(version)


def test_auto_refuses_labels_of_no_version() -> None:
    """The error names the strange label and the option that helps."""
    with pytest.raises(InputError, match=r"'flying a kiet'.*--class-list"):
        resolve_class_list([kinetics("yoga"), kinetics("flying a kiet")], "auto")


def test_own_videos_have_their_own_classes_or_none() -> None:
    """The sorted labels of a plain table are its classes; without labels there are none."""
    labels = ["b", "a", "Z", None, "a"]
    assert resolve_class_list([own(label) for label in labels], "auto") == ("Z", "a", "b")
    assert resolve_class_list([own(None)], "auto") is None


def test_a_class_file_gives_the_ids(tmp_path: Path) -> None:
    """Line order is kept, and a label outside is refused with near names and its clip."""
    file = tmp_path / "classes.txt"
    file.write_text("yoga\narchery\n")
    assert resolve_class_list([kinetics("archery")], str(file)) == ("yoga", "archery")
    with pytest.raises(InputError, match=r"'archry' of clip 'abcdefghijk,0,10'.*names: archery"):
        resolve_class_list([kinetics("archry")], str(file))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a\n\nb\n", "line 2: class '' is empty or there twice"),
        ("a\nb\na\n", "line 3: class 'a' is empty or there twice"),
    ],
)
def test_a_wrong_class_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """Empty and missing files, blank lines and names that occur twice are errors."""
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        resolve_class_list([], str(tmp_path / "classes.txt"))
    with pytest.raises(InputError, match=r"cannot read .*500: No such file"):
        resolve_class_list([], str(tmp_path / "500"))
