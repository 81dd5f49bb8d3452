"""Facts about the releases of Kinetics: where each one's annotations, lists and archives are.

They describe CVDF's bucket and DeepMind's as they stand; nothing here reads anything.
"""

from dataclasses import dataclass

from clip_kinetics700.schema import SPLITS

SPLIT_FOLDERS = {"train": "train", "validation": "val", "test": "test"}
"""CVDF's word for each split, in folders and in names of lists."""
DEEPMIND_WORDS = {"train": "train", "validation": "validate", "test": "test"}
"""DeepMind's word for each split, in the names of the lists in its archives."""


@dataclass(frozen=True, slots=True)
class Release:
    """One release of Kinetics."""

    version: str
    """`400`, `600`, `700` (of 2019) or `700-2020`."""
    folder: str
    """Folder of its archives below CVDF's address; both 700s have the archives of 2020."""
    has_cvdf_annotations: bool = False
    """Whether CVDF has annotations of this very release."""
    class_archives: tuple[str, ...] = ()
    """Splits whose archives hold one class each."""
    is_named_after_classes: bool = False
    """Whether such an archive is named after its class; else only its content tells."""
    overlays: tuple[str, ...] = ()
    """Archives, below the folder, whose clips replace those of the others."""

    def list_path(self, split: str) -> str:
        """Return the path, below CVDF's address, of the list of a split's archives."""
        word = SPLIT_FOLDERS[split]
        return f"{self.folder}/{word}/k{self.folder}_{word}_path.txt"


RELEASES = {
    release.version: release
    for release in (
        Release(
            "400",
            "400",
            has_cvdf_annotations=True,
            overlays=("replacement_for_corrupted_k400.tgz",),
        ),
        Release("600", "600", class_archives=SPLITS, is_named_after_classes=True),
        Release("700", "700_2020", class_archives=("train", "validation")),
        Release(
            "700-2020",
            "700_2020",
            has_cvdf_annotations=True,
            class_archives=("train", "validation"),
        ),
    )
}
VERSIONS = tuple(RELEASES)


def end_with_slash(address: str) -> str:
    """Return an address or a directory to which names can be appended."""
    return address if address.endswith("/") else f"{address}/"
