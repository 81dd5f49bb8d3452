"""`docs/cli.md` and the types of the Python API are those of the options that there are."""

from clip_kinetics700_builder.cli.reference import render_reference, render_types
from tests.support.processes.checkout import PROJECT


def test_the_reference_is_that_of_the_options() -> None:
    """A new command or option stands in docs/cli.md, and an old one does not."""
    written = (PROJECT / "docs" / "cli.md").read_text(encoding="utf-8")
    renew = "python -m clip_kinetics700_builder.cli.reference > docs/cli.md"
    assert written == render_reference(), f"docs/cli.md is not of these options; renew it: {renew}"


def test_the_types_are_those_of_the_options() -> None:
    """What editors and mypy know of the Python API are the options that there are."""
    written = (PROJECT / "builder/clip_kinetics700_builder/__init__.pyi").read_text("utf-8")
    assert written == render_types(), (
        "renew it: python -m clip_kinetics700_builder.cli.reference types > "
        "builder/clip_kinetics700_builder/__init__.pyi"
    )


def test_every_option_is_in_the_reference_once_a_command() -> None:
    """Choices, ranges, defaults and flags with two words are spelled as one types them."""
    build = render_reference().partition("\n## build\n")[2].partition("\n## ")[0]
    assert "| `--dtype [auto, float32, bfloat16, float16]` | `auto` |" in build
    assert "| `--max-failures N, 0 to 1` | `0.5` |" in build
    assert "| `--task-timeout N, above 0 to 1,000,000` | `120.0` |" in build
    assert "| `--worker-memory N, 512 or more` | `1536` |" in build
    assert "| `--figures / --no-figures` | `--figures` |" in build
    assert "| `--output PATH` | required |" in build
    assert "\n## evaluate linear-probe\n" in render_reference()
