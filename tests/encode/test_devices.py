"""`auto` chooses what fits the machine, and a compiled model gives the bits that it gave before."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_kinetics700_builder.config import ModelConfig
from clip_kinetics700_builder.encode.devices import (
    CLIPS_WORTH_COMPILING,
    check_compiler,
    find_missing_tool,
    resolve_batch_size,
    resolve_compiled,
    resolve_decode_device,
    resolve_decoder,
    resolve_device,
    resolve_dtype,
)
from clip_kinetics700_builder.types import InputError
from tests.support.datasets.builds import build_arguments, run_cli_process
from tests.support.datasets.encoders import (
    encode_in_threads,
    make_pixels,
    smallest_cosine,
)
from tests.support.kinetics.miniature import MiniKinetics
from tests.support.processes.checkout import SOURCE_PATHS

needs_compiler = pytest.mark.skipif(
    find_missing_tool() is not None, reason=f"torch.compile lacks {find_missing_tool()}"
)


@needs_compiler
@pytest.mark.parametrize(
    ("choice", "dtype", "n_clips", "expected"),
    [
        ("auto", "bfloat16", 2 * CLIPS_WORTH_COMPILING, True),
        ("auto", "bfloat16", 2 * CLIPS_WORTH_COMPILING - 1, False),
        ("auto", "float32", 10**6, False),
        ("yes", "float32", 1, True),
        ("no", "bfloat16", 10**6, False),
    ],
)
def test_a_model_is_compiled_where_that_pays(
    choice: str, dtype: str, n_clips: int, *, expected: bool
) -> None:
    """`auto` compiles for long work in bfloat16; a choice is a choice."""
    chosen = resolve_compiled(choice, "cpu", dtype, n_clips=n_clips, n_cores=2)
    assert chosen is expected


def test_without_a_compiler_auto_runs_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without g++ `auto` is eager, and `yes` is refused with what to install."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not resolve_compiled("auto", "cpu", "bfloat16", n_clips=10**6, n_cores=1)
    with pytest.raises(InputError, match=r"compiled here: the C\+\+ compiler g\+\+ is missing"):
        resolve_compiled("yes", "cpu", "bfloat16", n_clips=1, n_cores=1)


def test_without_pythons_headers_nothing_is_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A compiler alone is not enough: what torch makes includes Python.h."""
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(InputError, match=r"Python.s headers .* is missing"):
        check_compiler()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_nvdec_without_a_gpu_is_refused() -> None:
    """`--decode-device cuda` without one is misuse, said in one line."""
    assert resolve_decode_device("cpu", "cpu") == "cpu"
    with pytest.raises(InputError, match="--decode-device cuda: this torch sees no CUDA device"):
        resolve_decode_device("cuda", "cpu")


@pytest.mark.slow
@needs_compiler
@pytest.mark.needs_ffmpeg
def test_a_compiler_that_fails_ends_in_one_line(
    mini_kinetics: MiniKinetics, random_model: Path, tmp_path: Path
) -> None:
    """A g++ that is there and does not work: the cause, what to set, exit code 1."""
    words = build_arguments(mini_kinetics, random_model, tmp_path / "out")
    cache = str(tmp_path / "cache")
    outcome = run_cli_process(
        *words, "--compile", "yes", "--quiet", CXX="false", TORCHINDUCTOR_CACHE_DIR=cache
    )
    assert outcome.returncode == 1
    (line,) = outcome.stderr.splitlines()
    assert "the model cannot be compiled here: InvalidCxxCompiler: " in line
    assert line.endswith("set --compile no in a new output directory")


BATCH_SIZE = 4
PROGRAM = """
import sys
import sysconfig
from pathlib import Path
import numpy as np
from tests.support.datasets.encoders import encode_in_threads, make_pixels
np.save(sys.argv[2], encode_in_threads(Path(sys.argv[1]), make_pixels(4), compiled=True))
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, of its compiler
@needs_compiler
def test_a_compiled_model_is_bit_stable(random_model: Path, tmp_path: Path) -> None:
    """A compiled model gives the same bits in another process, place or thread, beside others."""
    pixels, others = make_pixels(BATCH_SIZE), make_pixels(BATCH_SIZE, seed=1)
    mixed = others.copy()
    mixed[2] = pixels[1]
    batches = [pixels, pixels[::-1].copy(), mixed, pixels, others, pixels]
    rows = encode_in_threads(random_model, *batches, compiled=True)
    expected = rows[:BATCH_SIZE]
    assert np.array_equal(rows[4:8], expected[::-1])
    assert np.array_equal(rows[10], expected[1])
    assert np.array_equal(rows[12:16], expected)
    assert np.array_equal(rows[20:], expected)
    command = [sys.executable, "-c", PROGRAM, str(random_model), str(tmp_path / "rows.npy")]
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": SOURCE_PATHS,
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
    }
    subprocess.run(command, env=environment, check=True)
    assert np.array_equal(np.load(tmp_path / "rows.npy"), expected)
    assert (
        smallest_cosine(encode_in_threads(random_model, pixels, compiled=False), expected) > 0.999
    )


def test_auto_is_resolved_for_a_cpu() -> None:
    """On a CPU `auto` is a type that it computes in, and a batch that was measured fast."""
    assert resolve_dtype("auto", "cpu") in ("bfloat16", "float32")
    assert resolve_dtype("float16", "cpu") == "float16"
    assert resolve_batch_size(None, "cpu") == 16
    assert resolve_batch_size(7, "cpu") == 7


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    """`--device cuda` without one is misuse, said in one line."""
    with pytest.raises(InputError, match="--device cuda: this torch sees no CUDA device"):
        resolve_device("cuda")


@pytest.mark.parametrize(
    ("decoder", "device", "found"),
    [
        ("auto", "cpu", "pyav"),
        ("auto", "cuda", "torchcodec"),
        ("pyav", "cpu", "pyav"),
        ("torchcodec", "cpu", "torchcodec"),
        ("torchcodec", "cuda", "torchcodec"),
    ],
)
def test_the_decoder_is_one_for_its_device(decoder: str, device: str, found: str) -> None:
    """`auto` is PyAV on a CPU and torchcodec on a GPU; a decoder that is named stays."""
    assert resolve_decoder(ModelConfig(decoder=decoder, decode_device=device)) == found


def test_pyav_is_refused_on_a_gpu() -> None:
    """PyAV has no NVDEC."""
    with pytest.raises(InputError, match="--decoder pyav: decodes on the CPU alone"):
        resolve_decoder(ModelConfig(decoder="pyav", decode_device="cuda"))
