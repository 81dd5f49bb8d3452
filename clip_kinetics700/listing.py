"""Names of the files of a directory: local ones through links, those of web servers in plain text.

In: a local directory, or a name of a listing. Out: names as tables and messages have them.
"""

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote


def list_local(root: str, *, max_depth: int) -> dict[str, dict[str, Any]]:
    """Return size and time of each file of a directory, by name relative to it, hidden ones aside.

    Args:
        root: the directory.
        max_depth: 1 is its own files only.

    Raises:
        FileNotFoundError: there is no such directory.
    """
    if not Path(root).is_dir():
        raise FileNotFoundError(f"no directory {root}")
    found = {}
    for folder, folders, names in os.walk(root, followlinks=True):
        inside = os.path.relpath(folder, root)
        depth = 1 if inside == "." else 2 + inside.count("/")
        folders[:] = [name for name in folders if depth < max_depth and not name.startswith(".")]
        prefix = "" if inside == "." else f"{inside}/"
        for name in names:
            path = f"{folder}/{name}"
            if not name.startswith(".") and Path(path).exists():
                state = Path(path).stat()
                found[prefix + name] = {"size": state.st_size, "mtime": state.st_mtime_ns}
    return dict(sorted(found.items()))


def decode_name(name: str) -> str:
    """Return the name of a file in a web server's listing, unless no URL could be made of it."""
    plain = unquote(name)
    return name if set("%?#") & set(plain) else plain
