"""Options, paths and shares of a cluster are checked before the cluster is asked."""

import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from clip_kinetics700_builder.config import EncodeConfig
from clip_kinetics700_builder.engines.cluster import check_engine, divide_nodes, make_portable
from clip_kinetics700_builder.option import make_config
from clip_kinetics700_builder.types import InputError


def configure(work: str = "", **options: Any) -> EncodeConfig:
    """Return the configuration that has these options."""
    return make_config(EncodeConfig, options, work=Path(work))


RAY = configure(engine="ray")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ray_cpus": 2}, "are for --engine ray"),
        ({"ray_address": "auto"}, "are for --engine ray"),
        ({"engine": "ray", "rank": 0}, "no --rank and --world-size"),
        ({"engine": "ray", "world_size": 2}, "no --rank and --world-size"),
        ({"engine": "ray", "device": "cuda:1"}, "Ray gives each task its GPU; use cuda"),
    ],
)
def test_options_of_another_engine_are_refused(options: dict[str, Any], message: str) -> None:
    """Ray's options without Ray, a rank or a certain GPU with it, are misuse."""
    with pytest.raises(InputError, match=message):
        check_engine(configure(**options))


def test_a_missing_ray_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ray is not installed, the line says what to install."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'clip-kinetics700\[ray\]'"):
        check_engine(RAY)


def test_tasks_are_given_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work, videos, model directory and mirror hold in any working directory; names stay."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip").mkdir()
    config = make_portable(configure("w", videos=Path("v"), model="clip", base_url="mirror"))
    assert (config.work, config.clips.videos) == (tmp_path / "w", tmp_path / "v")
    assert (config.model.name, config.clips.annotations.base_url) == (
        str(tmp_path / "clip"),
        str(tmp_path / "mirror"),
    )
    assert make_portable(RAY).model == RAY.model
    assert make_portable(RAY).clips == RAY.clips


def test_a_task_fits_on_every_node() -> None:
    """Without GPUs a task takes the CPUs of the smallest node; one that offers none is left out."""
    share = divide_nodes(RAY, [{"CPU": 8.0}, {"CPU": 33.0}, {"memory": 1.0}])
    assert (share.n_cpus, share.n_gpus, share.n_slots) == (8, 0, 5)
    assert share.config.model.device == "cpu"
    assert (share.config.run.encode_lanes, share.config.run.decode_workers) == (8, 8)


def test_the_gpus_of_a_node_share_its_cpus() -> None:
    """With GPUs there is a task for each, on the nodes that have some."""
    share = divide_nodes(RAY, [{"CPU": 64.0, "GPU": 4.0}, {"CPU": 20.0, "GPU": 1.0}, {"CPU": 2.0}])
    assert (share.n_cpus, share.n_gpus, share.n_slots) == (16, 1, 5)
    assert share.config.model.device == "cuda"
    assert (share.config.run.encode_lanes, share.config.run.decode_workers) == (None, 16)


def test_the_users_numbers_count() -> None:
    """`--ray-cpus`, `--device`, lanes and workers stay as they were given."""
    config = configure(engine="ray", device="cpu", ray_cpus=4, encode_lanes=3, decode_workers=5)
    share = divide_nodes(config, [{"CPU": 8.0, "GPU": 1.0}])
    assert (share.n_cpus, share.n_gpus, share.n_slots) == (4, 0, 2)
    assert (share.config.run.encode_lanes, share.config.run.decode_workers) == (3, 5)


def test_a_cluster_that_cannot_do_it(caplog: pytest.LogCaptureFixture) -> None:
    """No node with a GPU is an error; with `--ray-cpus` one is waited for, and that is said."""
    config = configure(engine="ray", device="cuda")
    with pytest.raises(InputError, match="no node of the Ray cluster has a CPU and a GPU"):
        divide_nodes(config, [{"CPU": 8.0}])
    config = configure(engine="ray", device="cuda", ray_cpus=8)
    with caplog.at_level(logging.WARNING):
        assert divide_nodes(config, [{"CPU": 8.0}]).n_slots == 1
    assert "no node of the Ray cluster has 8 CPUs and a GPU yet" in caplog.text
