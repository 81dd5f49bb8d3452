"""The cost of a build is computed from a few measured clips."""

import re
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from clip_kinetics700_builder.config import (
    AnnotationsConfig,
    ClipsConfig,
    EncodeConfig,
    ModelConfig,
)
from clip_kinetics700_builder.engines.cost import (
    NPY_HEADER_BYTES,
    CostModel,
    count_clips,
    measure_cost,
    predict_cost,
)
from clip_kinetics700_builder.engines.prepare import plan_job
from tests.support.datasets.builds import RunBuild, build_arguments, run_cli
from tests.support.kinetics.miniature import MiniKinetics

ON_TWO_CORES = CostModel(
    decode_seconds=0.08,
    n_frames=10,
    frame_seconds=0.025,
    n_cores=2,
    on_gpu=False,
    width=512,
    n_decoded=8,
)


def test_decoder_and_encoder_share_the_cores() -> None:
    """Two cores: half of 80 ms for decoding and ten frames of 25 ms each, one after the other."""
    assert predict_cost(ON_TWO_CORES, 1000, ()).seconds == pytest.approx(290)


def test_beside_a_gpu_the_slower_one_decides() -> None:
    """A GPU that encodes a clip in 20 ms waits for two cores that decode one in 40."""
    fast = replace(ON_TWO_CORES, frame_seconds=0.002, on_gpu=True)
    assert predict_cost(fast, 1000, ()).seconds == pytest.approx(40)


@pytest.mark.needs_ffmpeg
def test_bytes_of_tars_are_those_of_real_ones(dataset: Path) -> None:
    """The predicted size of the tars is within 5 % of those of a build."""
    sizes, real = list[int](), 0
    for tar in sorted(dataset.glob("*.tar")):
        with tarfile.open(tar) as archive:
            members = archive.getmembers()
        sizes += [member.size for member in members if member.name.endswith(".npy")]
        # The end of a tar, which fills whole records of 10,240 bytes, does not count.
        real += members[-1].offset_data + -(-members[-1].size // 512) * 512
    n_frames = sum((size - NPY_HEADER_BYTES) / 1024 for size in sizes) / len(sizes)
    model = replace(ON_TWO_CORES, n_frames=n_frames)
    predicted = predict_cost(model, len(sizes), ("webdataset",)).dataset_bytes
    assert predicted == pytest.approx(real, rel=0.05)


@pytest.mark.slow
@pytest.mark.needs_ffmpeg
def test_what_is_measured_is_of_the_plans_clips(
    mini_kinetics: MiniKinetics, random_model: Path, run_build: RunBuild, tmp_path: Path
) -> None:
    """Clips with a file are decoded and counted, until their part is done."""
    annotations = AnnotationsConfig(files=(mini_kinetics.annotations,))
    config = EncodeConfig(
        work=tmp_path / "out/.build",
        clips=ClipsConfig(annotations=annotations, videos=mini_kinetics.videos),
        model=ModelConfig(name=str(random_model), dtype="float32", batch_size=8),
    )
    plan = plan_job(config)
    model = measure_cost(config, plan)
    assert model.n_decoded > 0
    assert model.decode_seconds > 0
    assert model.frame_seconds > 0
    assert model.width == 512
    n_found = sum(counts["found"] for counts in plan.count_found().values())
    assert count_clips(plan, config) == n_found
    assert run_build(tmp_path / "out") is not None
    assert count_clips(plan, config) == 0


@pytest.mark.needs_ffmpeg
@pytest.mark.usefixtures("quick_dry_run")
def test_a_dry_run_says_what_it_would_take(
    mini_kinetics: MiniKinetics, random_model: Path, tmp_path: Path
) -> None:
    """Hours and bytes come with the counts that they are based on."""
    result = run_cli(*build_arguments(mini_kinetics, random_model, tmp_path / "out"), "--dry-run")
    assert result.returncode == 0, result.stderr
    line = (
        r"\d+ clips would take \d+ s on this machine, [\d.]+ .B of dataset and [\d.]+ .B of parts"
    )
    assert re.search(line, result.stdout), result.stdout
    assert re.search(r"frames a clip \(measured on \d of them\)", result.stdout), result.stdout
    assert not (tmp_path / "out").exists()


def test_without_a_model_the_dry_run_still_counts(
    mini_kinetics: MiniKinetics, tmp_path: Path
) -> None:
    """A model that cannot be had costs the estimate, not the counts."""
    arguments = build_arguments(mini_kinetics, tmp_path / "nowhere", tmp_path / "out")
    result = run_cli(*arguments, "--dry-run")
    assert result.returncode == 0, result.stderr
    assert re.search(r"train\W+17\W+15", result.stdout), result.stdout
    assert "what it would take is not known: " in result.stdout
