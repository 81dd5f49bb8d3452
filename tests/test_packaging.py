"""What pyproject.toml declares is what the code imports and what constraints.txt pins."""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
OURS = {"clip_kinetics700", "clip_kinetics700_builder"}
# Modules whose name differs from that of their distribution.
DISTRIBUTION_OF_MODULE = {"PIL": "pillow", "skvideo": "scikit-video", "sklearn": "scikit-learn"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """Return the `project` table of pyproject.toml."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return dict(document["project"])


def read_names(requirements: Iterable[str]) -> set[str]:
    """Return the normalized distribution names of requirement lines."""
    found = (re.match(r"[\w.-]+", requirement) for requirement in requirements)
    return {match[0].replace("_", "-").lower() for match in found if match}


def read_imports(package: str) -> Iterator[tuple[str, str]]:
    """Yield (file, distribution) of every import of a third party, lazy ones included."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module or ""]
            for module in {name.split(".")[0] for name in modules}:
                if module not in sys.stdlib_module_names | OURS:
                    distribution = DISTRIBUTION_OF_MODULE.get(module, module)
                    name = path.relative_to(ROOT / package).as_posix()
                    yield name, distribution.replace("_", "-").lower()


def test_the_reader_imports_only_core_dependencies(project: dict[str, Any]) -> None:
    """`pip install clip-kinetics700` is enough to read; only training modules need `train`."""
    core = read_names(project["dependencies"])
    train = core | read_names(project["optional-dependencies"]["train"])
    for file, name in read_imports("clip_kinetics700"):
        allowed = train if file.startswith("training/") else core
        assert name in allowed, f"{file} imports {name}"


def test_the_builder_imports_only_the_build_extra(project: dict[str, Any]) -> None:
    """`pip install clip-kinetics700[build]` is enough to build, the demo included."""
    extras = project["optional-dependencies"]
    build = read_names(project["dependencies"]) | read_names(extras["build"])
    more = {"download/youtube.py": "youtube", "engines/ray.py": "ray"}
    eval_modules = ("linear_probe.py", "softmax_regression.py", "confusion.py")
    more |= dict.fromkeys((f"evaluate/{name}" for name in eval_modules), "eval")
    for file, name in read_imports("builder/clip_kinetics700_builder"):
        allowed = build | read_names(extras[more[file]] if file in more else ())
        assert name in allowed, f"{file} imports {name}"


def test_every_dependency_is_pinned_for_development(project: dict[str, Any]) -> None:
    """CI tests the versions that constraints.txt names, not those of the day."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = read_names(line for line in lines if "==" in line)
    extras = project["optional-dependencies"].values()
    wanted = read_names(project["dependencies"]).union(*map(read_names, extras))
    assert wanted <= pinned


def test_every_dependency_says_why() -> None:
    """Each dependency in pyproject.toml carries a comment on its line."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    tables = text.partition("\ndependencies = [")[2].partition("[project.scripts]")[0]
    requirements = [line for line in tables.splitlines() if line.startswith('    "')]
    assert len(requirements) > 20
    assert [line for line in requirements if '",' not in line or "  # " not in line] == []
