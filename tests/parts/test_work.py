"""A work directory goes on with the configuration that it was started with, or is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from clip_kinetics700_builder.clips.plan import read_plan
from clip_kinetics700_builder.parts.work import (
    CONFIG_NAME,
    PLAN_NAME,
    Sources,
    WorkConfig,
    is_work_directory,
    read_sources,
    refuse_differences,
    require_work,
    store_sources,
    store_work,
)
from clip_kinetics700_builder.system.files import write_json
from clip_kinetics700_builder.types import Clip, InputError
from tests.support.damage.datasets import flip_byte

CLIPS = [Clip("train", "abcdefghijk", 1, 11, "yoga", "yoga")]
CONFIG = WorkConfig(
    configuration={"dtype": "float32", "preprocessing": {"crop": [224, 224]}},
    class_names=["yoga"],
    device_type="cpu",
    rows_per_part=500,
)
SOURCES = Sources(has_videos=True, archives=("first.tar",))


def test_configuration_and_plan_are_read_back(tmp_path: Path) -> None:
    """A later stage reads what was stored."""
    assert not is_work_directory(tmp_path)
    store_work(tmp_path, lambda _: CONFIG, CLIPS)
    assert is_work_directory(tmp_path)
    assert require_work(tmp_path) == CONFIG
    assert read_plan(tmp_path / PLAN_NAME) == CLIPS


def test_the_same_configuration_goes_on(tmp_path: Path) -> None:
    """Storing the same thing twice is fine: a resumed run, or another rank."""
    store_work(tmp_path, lambda _: CONFIG, CLIPS)
    store_work(tmp_path, lambda _: CONFIG, CLIPS)


def test_a_difference_is_named(tmp_path: Path) -> None:
    """Another value is refused with its name, the stored and the new value."""
    store_work(tmp_path, lambda _: CONFIG, CLIPS)
    other = replace(CONFIG, configuration={**CONFIG.configuration, "dtype": "bfloat16"})
    with pytest.raises(InputError, match="dtype was float32, now bfloat16"):
        store_work(tmp_path, lambda _: other, CLIPS)
    with pytest.raises(InputError, match="device_type was cpu, now cuda"):
        store_work(tmp_path, lambda _: replace(CONFIG, device_type="cuda"), CLIPS)


def test_nested_values_are_compared(tmp_path: Path) -> None:
    """A difference deep in a nested object is named by its dotted name; tuples equal lists."""
    old = {"configuration": {"preprocessing": {"crop": [224, 224], "mean": (0.5,)}}}
    new = {"configuration": {"preprocessing": {"crop": [336, 336], "mean": [0.5]}}}
    with pytest.raises(InputError, match=r": preprocessing\.crop was .*, now \[336, 336\]; use"):
        refuse_differences(tmp_path, old, new)


def test_a_directory_without_plan_is_refused(tmp_path: Path) -> None:
    """Any other directory is no source of parts."""
    with pytest.raises(InputError, match="holds no plan and parts"):
        require_work(tmp_path)


def test_a_foreign_config_is_refused(tmp_path: Path) -> None:
    """A config.json of something else is not overwritten."""
    (tmp_path / "config.json").write_text('{"model_type": "clip"}', encoding="utf-8")
    with pytest.raises(InputError, match="is not the configuration of a build"):
        store_work(tmp_path, lambda _: CONFIG, CLIPS)


def test_a_directory_of_an_older_version_goes_on(tmp_path: Path) -> None:
    """What was stored without hashes is taken as it is, and gets them when it is stored next."""
    store_work(tmp_path, lambda _: CONFIG, CLIPS)
    store_sources(tmp_path, SOURCES)
    sealed = {name: (tmp_path / name).read_bytes() for name in (CONFIG_NAME, "sources.json")}
    older = {name: json.loads(data) for name, data in sealed.items()}
    del older[CONFIG_NAME]["plan_file_sha256"]
    for name, document in older.items():
        del document["self_sha256"]
        write_json(tmp_path / name, document)
    assert require_work(tmp_path) == CONFIG
    assert read_sources(tmp_path) == SOURCES
    store_work(tmp_path, lambda _: CONFIG, CLIPS)
    assert (tmp_path / CONFIG_NAME).read_bytes() == sealed[CONFIG_NAME]


def test_a_damaged_plan_is_written_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who only reads it refuses it; who encodes has its clips, and says that it was damaged."""
    store_work(tmp_path, lambda _: CONFIG, CLIPS)
    plan = tmp_path / PLAN_NAME
    sound = plan.read_bytes()
    flip_byte(plan, 100)
    with pytest.raises(InputError, match=r"plan\.parquet: is damaged; run encode again"):
        require_work(tmp_path)
    store_work(tmp_path, lambda _: CONFIG, CLIPS)
    assert "plan.parquet: is damaged, and is written again" in caplog.text
    assert plan.read_bytes() == sound


@pytest.mark.parametrize(
    ("name", "read"), [(CONFIG_NAME, require_work), ("sources.json", read_sources)]
)
def test_another_value_under_the_old_hash_is_refused(
    tmp_path: Path, name: str, read: Callable[[Path], object]
) -> None:
    """A value that was edited, or a bit that flipped, is no configuration and no list of ours."""
    store_work(tmp_path, lambda _: CONFIG, CLIPS)
    store_sources(tmp_path, SOURCES)
    text = (tmp_path / name).read_text(encoding="utf-8")
    changed = text.replace("500", "501").replace("first.tar", "first.tas")
    (tmp_path / name).write_text(changed, encoding="utf-8")
    with pytest.raises(InputError, match=rf"{name}: is not .* or is damaged; bring it back, or"):
        read(tmp_path)
