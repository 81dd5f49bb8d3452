"""No token is ever seen: not in output, errors, tracebacks or logs, nor among the arguments."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import clip_kinetics700
from tests.support.hub.hubs import ALICE, BOB, KEYS, Hub, start_hub

WRONG = "hf_wrongwrongwrongwrong"
LOGGED = """
import logging
logging.basicConfig(level=logging.DEBUG)
"""
LOAD = "clip_kinetics700.load_dataset(arguments[0], max_samples=1)"

SLOW = partial(pytest.param, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Iterator[Hub]:
    """A Hub on this machine with the miniature Kinetics in a private repository."""
    with start_hub(tmp_path_factory.mktemp("hub")) as hub:
        hub.publish(dataset, "alice/private", private=True)
        yield hub


@pytest.mark.parametrize("token", [*map(SLOW, [ALICE, BOB]), WRONG])
@pytest.mark.parametrize("command", ["verify", SLOW("info")])
def test_commands_keep_tokens_to_themselves(
    hub: Hub, tmp_path: Path, command: str, token: str
) -> None:
    """With a right or a wrong token, in all logs and tracebacks of --debug, no token is shown."""
    words = [command, "alice/private", "--debug"]
    more = {"HF_TOKEN": token, "HF_HOME": str(tmp_path), "HF_DEBUG": "1"}
    done, seen = hub.run_command_watched(*words, **more)
    assert done.returncode == (0 if token == ALICE else 1)
    assert token == ALICE or "Traceback" in done.stderr
    for text in (done.stdout, done.stderr, *seen):
        assert token not in text


@pytest.mark.slow
@pytest.mark.parametrize("token", [ALICE, WRONG])
@pytest.mark.parametrize("code", [KEYS, LOAD])
def test_readers_keep_tokens_to_themselves(hub: Hub, tmp_path: Path, code: str, token: str) -> None:
    """`open` and `load_dataset` log and raise without the token, at the level of debugging too."""
    more = {"HF_TOKEN": token, "HF_HOME": str(tmp_path)}
    done, seen = hub.run_watched(LOGGED + code, "alice/private", "{}", "{}", **more)
    assert (done.returncode == 0) == (token == ALICE)
    assert "DEBUG" in done.stderr
    for text in (done.stdout, done.stderr, *seen):
        assert token not in text


@pytest.mark.parametrize("command", ["verify", SLOW("info")])
def test_private_repositories_are_read_by_who_is_logged_in(
    hub: Hub, tmp_path: Path, command: str
) -> None:
    """The token that `hf auth login` has stored is enough; without one the way out is told."""
    more = {"HF_TOKEN": "", "HF_HOME": str(tmp_path)}
    done = hub.run_command(command, "alice/private", **more)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "alice/private" in done.stderr
    assert "it is private: log in with `hf auth login` or set HF_TOKEN" in done.stderr
    (tmp_path / "token").write_text(ALICE)
    done = hub.run_command(command, "alice/private", **more)
    assert done.returncode == 0, done.stderr


def test_token_argument_is_refused() -> None:
    """`token=`, which stays in notebooks, is no argument of our `load_dataset`."""
    with pytest.raises(TypeError, match="token= is not taken: log in with `hf auth login` or set"):
        clip_kinetics700.load_dataset("alice/private", token=WRONG)
