"""`verify` fetches a repository at one commit and checks it like a directory, whatever flips."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clip_kinetics700_builder.system.files import hash_file
from tests.support.datasets.builds import Outcome, run_cli
from tests.support.hub.faults import flip_bit
from tests.support.hub.hubs import Hub, start_hub

BOTH_PATHS = pytest.mark.parametrize(
    "disables_xet",
    [pytest.param("0", id="xet"), pytest.param("1", id="lfs", marks=pytest.mark.slow)],
)

SHA256_DIFFERS = re.compile(
    r"^(\S+): has the sha256 (\w{64}), manifest.json says (\w{64})$", re.MULTILINE
)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A Hub on this machine."""
    with start_hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture(scope="module")
def commit(hub: Hub, dataset: Path) -> str:
    """The commit of `alice/built`, which holds the miniature Kinetics."""
    return hub.publish(dataset, "alice/built")


def verify(hub: Hub, home: Path, *words: str, disables_xet: str = "1") -> Outcome:
    """Verify a repository with a cache of its own; the Xet client tries again at once."""
    more = {"HF_HOME": str(home), "HF_HUB_DISABLE_XET": disables_xet}
    more["HF_XET_CLIENT_RETRY_BASE_DELAY"] = "10ms"
    return hub.run_command("verify", *words, **more)


def last_line(outcome: Outcome) -> str:
    """Return the last line of what a command says of errors."""
    return outcome.stderr.strip().splitlines()[-1]


@BOTH_PATHS
def test_repository_is_verified_at_its_commit(
    hub: Hub, commit: str, tmp_path: Path, disables_xet: str
) -> None:
    """A whole repository is clean, the commit is told, and what is cached is not fetched again."""
    outcome = verify(hub, tmp_path, "alice/built", disables_xet=disables_xet)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.startswith(f"alice/built@{commit}: 13 files are as the manifest says")
    assert "fetch: 14 of 14 files" in outcome.stderr
    hub.control("reset", {})
    words = ("hf://datasets/alice/built", "--revision", commit, "--quiet")
    outcome = verify(hub, tmp_path, *words, disables_xet=disables_xet)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "", "")
    assert not hub.requests("/_cdn/")


def damage_xorbs(hub: Hub, place: int) -> Callable[[], None]:
    """Flip a bit in the first chunk of every xorb of a Hub; return what mends them.

    Args:
        hub: keeps its xorbs in files.
        place: the byte in the chunk, from its end where negative.
    """
    whole: dict[Path, bytes] = {}
    for index in (hub.home.parent / "hub/cas/xorbs").glob("*/*.idx"):
        path = index.with_suffix("")
        [_, nbytes, *_] = json.loads(index.read_bytes())[0]
        whole[path] = path.read_bytes()
        path.write_bytes(flip_bit(whole[path], range(nbytes)[place]))
    assert whole

    def mend() -> None:
        for path, data in whole.items():
            path.write_bytes(data)

    return mend


@BOTH_PATHS
def test_flipped_bit_of_a_download_is_found_and_mended(
    hub: Hub, commit: str, dataset: Path, tmp_path: Path, disables_xet: str
) -> None:
    """A bit that flips on the way is a problem of its file until that file is fetched again."""
    if disables_xet == "1":
        hub.control("faults", ["GET .*/_cdn/.*ds_000001.tar;flip;at=9000;times=-1"])
        mend = hub.heal
    else:
        # Before the end mark of four bytes, LZ4 keeps literals: they unpack to another byte.
        mend = damage_xorbs(hub, -5)
    outcome = verify(hub, tmp_path, "alice/built", "--quiet", disables_xet=disables_xet)
    mend()
    again = verify(hub, tmp_path, "alice/built", "--quiet", disables_xet=disables_xet)
    assert (again.returncode, again.stderr) == (outcome.returncode, outcome.stderr)
    assert outcome.returncode == 1
    found = SHA256_DIFFERS.findall(outcome.stderr)
    assert len(found) == len(outcome.stderr.splitlines()) - 2 > 0
    cached = tmp_path / "hub/datasets--alice--built/snapshots" / commit
    for name, there, listed in found:
        assert (there, listed) == (hash_file(cached / name), hash_file(dataset / name))
    assert last_line(outcome) == (
        f"alice/built@{commit}: {len(found)} of its files are damaged in the Hub's cache, and are "
        "not in the repository; --force-download fetches them again"
    )
    words = ("alice/built", "--force-download")
    outcome = verify(hub, tmp_path, *words, disables_xet=disables_xet)
    assert outcome.returncode == 0, outcome.stderr
    assert f"fetch: {len(found)} of {len(found)} files" in outcome.stderr


def test_download_that_cannot_be_unpacked_is_one_line(
    hub: Hub, commit: str, tmp_path: Path
) -> None:
    """A chunk of the Xet storage whose header is damaged ends in one line; the next run goes on."""
    place_of_unpacked_length = 5
    mend = damage_xorbs(hub, place_of_unpacked_length)
    outcome = verify(hub, tmp_path, "alice/built", "--quiet", disables_xet="0")
    mend()
    assert outcome.returncode == 1
    [line] = outcome.stderr.splitlines()
    assert line.startswith(f"clip-kinetics700: alice/built@{commit}: ")
    assert line.endswith("; run it again to go on")
    outcome = verify(hub, tmp_path, "alice/built", "--quiet", disables_xet="0")
    assert (outcome.returncode, outcome.stderr) == (0, "")


@pytest.mark.slow
def test_flipped_bit_of_the_manifest_is_found_and_mended(
    hub: Hub, commit: str, tmp_path: Path
) -> None:
    """A manifest that is damaged on the way says so by its own hash; it is fetched again too."""
    hub.control("faults", ["GET .*/resolve/.*/manifest.json;flip;at=4000;times=1"])
    outcome = verify(hub, tmp_path, "alice/built", "--quiet")
    assert outcome.returncode == 1
    assert outcome.stderr.startswith("manifest.json: ")
    assert last_line(outcome).endswith("--force-download fetches them again")
    outcome = verify(hub, tmp_path, "alice/built", "--force-download", "--quiet")
    assert (outcome.returncode, outcome.stderr) == (0, "")


def test_fault_of_the_repository_is_told_from_one_of_the_download(
    hub: Hub, dataset: Path, tmp_path: Path
) -> None:
    """What lacks, is too much or differs in the repository is a problem; no cache is blamed."""
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy, ignore=shutil.ignore_patterns(".*"))
    (copy / "ds_000001.tar").unlink()
    (copy / "notes.txt").write_text("mine")
    (copy / "splits.csv").write_text("tar_file,split\n")
    hub.publish(copy, "alice/broken")
    outcome = verify(hub, tmp_path / "home", "alice/broken", "--quiet")
    assert outcome.returncode == 1
    lines = outcome.stderr.splitlines()
    assert lines[0] == "notes.txt: is a file that manifest.json does not list"
    assert [line.split(":")[0] for line in lines[1:3]] == ["splits.csv", "ds_000001.tar"]
    assert lines[2] == "ds_000001.tar: is missing"
    assert lines[3].endswith("3 problems")
    assert len(lines) == 4


@pytest.mark.slow
def test_download_goes_on_where_it_broke_off(hub: Hub, commit: str, tmp_path: Path) -> None:
    """A connection that breaks once is overcome; a run that fails leaves what it has fetched."""
    hub.control("faults", ["GET .*/_cdn/.*ds_000000.tar;cut;after=5000;fin=1;times=1"])
    hub.control("faults", ["GET .*/_cdn/.*index.parquet;status;code=403;times=-1"])
    outcome = verify(hub, tmp_path, "alice/built", "--quiet")
    assert outcome.returncode == 1
    assert f"alice/built@{commit}: index.parquet: the Hub does not answer" in last_line(outcome)
    assert last_line(outcome).endswith("; run it again to go on")
    assert "sig=" not in outcome.stderr
    hub.heal()
    there = {path.name for path in tmp_path.rglob("snapshots/*/ds_*.tar")}
    hub.control("reset", {})
    outcome = verify(hub, tmp_path, "alice/built", "--quiet")
    assert outcome.returncode == 0, outcome.stderr
    fetched = " ".join(request["line"] for request in hub.requests("/_cdn/"))
    assert "index.parquet" in fetched
    assert there
    assert not [name for name in there if name in fetched]


@pytest.mark.parametrize(
    ("words", "environment", "code", "reason"),
    [
        (["alice/none"], {"HF_TOKEN": ""}, 2, "it is private: log in with `hf auth login` or set"),
        (["alice/built"], {"HF_TOKEN": "hf_wrong"}, 2, "it refuses your token, of HF_TOKEN or"),
        pytest.param(
            ["alice/none"], {}, 2, "it is private and the account of your token may not",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["alice/built", "--revision", "v9"], {}, 2, "alice/built@v9: no such dataset on the",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["alice/built"], {"HF_ENDPOINT": "http://127.0.0.1:9"}, 1, "the Hub does not answer",
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_fetched_is_one_line(
    hub: Hub, commit: str, words: list[str], environment: dict[str, str], code: int, reason: str
) -> None:
    """A repository that is not there, not readable or not reachable is told in one line."""
    outcome = hub.run_command("verify", *words, **environment)
    assert outcome.returncode == code
    assert len(outcome.stderr.splitlines()) == 1
    assert reason in outcome.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["hf://datasets/alice/built/data"], "is a directory in a repository; name the repository"),
        (["hf://datasets/a/b@v1", "--revision", "v2"], "--revision v2: hf://datasets/a/b@v1 names"),
        (["tests", "--revision", "main"], "--revision main: tests is no repository of the Hub"),
        (["tests", "--force-download"], "--force-download: tests is no repository of the Hub"),
        (["s3://bucket/dataset"], "directories and repositories of the Hub can be verified"),
    ],
)
def test_what_is_no_repository_is_refused(words: list[str], reason: str) -> None:
    """What can neither be fetched nor lies here, or options that mean nothing there, are misuse."""
    outcome = run_cli("verify", *words)
    assert outcome.returncode == 2
    assert reason in outcome.stderr


@pytest.mark.slow
def test_repository_without_manifest_is_refused(hub: Hub, tmp_path: Path) -> None:
    """What no manifest describes cannot be verified; the commit is named."""
    (tmp_path / "notes.txt").write_text("mine")
    commit = hub.publish(tmp_path, "alice/other")
    outcome = hub.run_command("verify", "alice/other")
    assert outcome.returncode == 2
    assert f"alice/other@{commit}: holds no manifest.json" in outcome.stderr


@pytest.mark.slow
def test_info_of_a_repository_is_that_of_its_directory(
    hub: Hub, commit: str, dataset: Path, tmp_path: Path
) -> None:
    """`info` counts in a repository, also at a commit, what it counts in the same files here."""
    words = ("info", "alice/built", "--json", "--revision", commit)
    outcome = hub.run_command(*words, HF_HOME=str(tmp_path))
    assert outcome.returncode == 0, outcome.stderr
    found = json.loads(outcome.stdout)
    here = json.loads(run_cli("info", dataset, "--json").stdout)
    assert (found.pop("source"), here.pop("source")) == ("alice/built", str(dataset))
    assert found == here
