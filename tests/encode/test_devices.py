"""`auto` chooses what fits the machine, and a compiled model gives the bits that it gave before."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_kinetics700_builder.encode.batches import EncoderThreads
from clip_kinetics700_builder.encode.devices import (
    CLIPS_WORTH_COMPILING,
    check_compiler,
    find_missing_tool,
    resolve_compiled,
    resolve_decode_device,
)
from clip_kinetics700_builder.types import Float32Array, InputError, UInt8Array
from tests.support.datasets.builds import PROJECT, build_arguments, run_cli_process
from tests.support.datasets.encoders import load_test_encoder, smallest_cosine
from tests.support.kinetics.miniature import MiniKinetics

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
    """No g++: `auto` is eager, and `yes` is refused with what to install."""
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
from tests.encode.test_devices import encode_in_lanes, make_pixels
np.save(sys.argv[2], encode_in_lanes(Path(sys.argv[1]), make_pixels(), compiled=True))
"""


def make_pixels(seed: int = 0) -> UInt8Array:
    """Return a batch of coarse noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (BATCH_SIZE, 14, 14, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(16, axis=1).repeat(16, axis=2))


def encode_in_lanes(model: Path, *batches: UInt8Array, compiled: bool) -> Float32Array:
    """Return the embeddings of all batches, encoded in two threads."""
    encoder = load_test_encoder(model, batch_size=BATCH_SIZE, dtype="bfloat16", compiled=compiled)
    with EncoderThreads(encoder, 2) as threads:
        # The first call compiles, so no other runs beside it.
        first = threads.submit(batches[0]).result()
        rest = [future.result() for future in map(threads.submit, batches[1:])]
    return np.concatenate([first, *rest])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, of its compiler
@needs_compiler
def test_a_compiled_model_is_bit_stable(random_model: Path, tmp_path: Path) -> None:
    """The same bits in another process, at another place, beside others, in another thread."""
    pixels, others = make_pixels(), make_pixels(1)
    mixed = others.copy()
    mixed[2] = pixels[1]
    batches = [pixels, pixels[::-1].copy(), mixed, pixels, others, pixels]
    rows = encode_in_lanes(random_model, *batches, compiled=True)
    expected = rows[:BATCH_SIZE]
    assert np.array_equal(rows[4:8], expected[::-1])
    assert np.array_equal(rows[10], expected[1])
    assert np.array_equal(rows[12:16], expected)
    assert np.array_equal(rows[20:], expected)
    command = [sys.executable, "-c", PROGRAM, str(random_model), str(tmp_path / "rows.npy")]
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"}
    subprocess.run(command, cwd=PROJECT, env=environment, check=True)
    assert np.array_equal(np.load(tmp_path / "rows.npy"), expected)
    assert smallest_cosine(encode_in_lanes(random_model, pixels, compiled=False), expected) > 0.999
