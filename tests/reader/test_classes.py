"""The package has the class list of each version of Kinetics."""

import pytest

from clip_kinetics700 import class_names


@pytest.mark.parametrize("version", ["400", "600", "700"])
def test_class_lists_are_whole(version: str) -> None:
    """Each version has as many distinct names as it is called after, none blank or padded."""
    names = class_names(version)
    assert len(set(names)) == len(names) == int(version)
    assert all(name and name == name.strip() for name in names)
    assert (names[0], names[-1]) == ("abseiling", "zumba")


def test_unknown_version_is_refused() -> None:
    """A version without a class list raises with those that have one."""
    with pytest.raises(ValueError, match="unknown Kinetics version '500'; known: 400, 600, 700"):
        class_names("500")
