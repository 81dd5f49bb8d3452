"""A work directory goes on with the configuration that it was started with, or is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from clip_kinetics700_builder.clips.plan import read_plan
from clip_kinetics700_builder.parts.work import (
    PLAN_NAME,
    WorkConfig,
    is_work_directory,
    refuse_differences,
    require_work,
    store_work,
)
from clip_kinetics700_builder.types import Clip, InputError

CLIPS = [Clip("train", "abcdefghijk", 1, 11, "yoga", "yoga")]
CONFIG = WorkConfig(
    configuration={"dtype": "float32", "preprocessing": {"crop": [224, 224]}},
    class_names=["yoga"],
    device_type="cpu",
    rows_per_part=500,
)


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
