"""The drop-in for upstream's reader has its keys and none of its faults."""

import inspect
import json
import logging
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clip_kinetics700 import DamageError, EmbeddingWebDatasetReader
from clip_kinetics700.shards import scan_shard
from tests.support.datasets.layouts import (
    make_sample,
    npy_bytes,
    write_index,
    write_members,
    write_tar,
)

N_SAMPLES = 10


@pytest.fixture
def urls(tmp_path: Path) -> str:
    """Ten samples of one to four frames in two tars, in the brace form."""
    write_tar(tmp_path / "ds_000000.tar", [make_sample(number) for number in range(6)])
    write_tar(tmp_path / "ds_000001.tar", [make_sample(number) for number in range(6, N_SAMPLES)])
    return f"{tmp_path}/ds_{{000000..000001}}.tar"


def read_captions(reader: EmbeddingWebDatasetReader) -> list[str]:
    """Return the json of all samples of an epoch, which tells them apart."""
    return [text for batch in reader for text in batch["meta"]]


def make_reader(urls: Any, **options: Any) -> EmbeddingWebDatasetReader:
    """Return a reader of batches of four, padded to three frames, without tokens."""
    options = {"enable_meta": True, "tokenizer": None, **options}
    return EmbeddingWebDatasetReader(urls, 3, 4, 0, **options)


def test_signature_is_upstreams() -> None:
    """The arguments and defaults that upstream has come first, in its order."""
    parameters = list(inspect.signature(EmbeddingWebDatasetReader).parameters.values())
    own = [p for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert [parameter.name for parameter in own] == [
        "urls",
        "standard_seq_len",
        "batch_size",
        "num_prepro_workers",
        "to_tensor",
        "enable_text",
        "enable_meta",
        "embedding_transform",
    ]
    defaults = [parameter.default for parameter in own[4:]]
    assert defaults[:3] == [True, True, False]
    assert defaults[3]("unchanged") == "unchanged"


def test_keys_and_shapes_are_upstreams(urls: str) -> None:
    """Keys come in upstream's order: a mask of 1 for frames, stored dtype, texts, tokens, json."""
    reader = make_reader(urls, tokenizer=lambda texts: torch.zeros(len(texts), 77))
    batch = next(iter(reader))
    assert list(batch) == ["zero_mask", "embeddings", "text", "text_tokens", "meta"]
    assert batch["embeddings"].shape == (4, 3, 8)
    assert batch["embeddings"].dtype == torch.float16
    assert batch["zero_mask"].tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]]
    assert batch["text"] == [make_sample(number).caption for number in range(4)]
    assert batch["text_tokens"].shape == (4, 77)
    assert json.loads(batch["meta"][1])["videoID"] == make_sample(1).youtube_id


def test_samples_are_padded_and_cut_at_the_end(urls: str) -> None:
    """Shorter samples end with zeros, longer ones lose their last frames."""
    embeddings = next(iter(make_reader(urls)))["embeddings"].numpy()
    for number in range(4):
        stored = make_sample(number).embeddings[:3]
        assert (embeddings[number, : len(stored)] == stored).all()
        assert not embeddings[number, len(stored) :].any()


def test_the_last_short_batch_comes(urls: str) -> None:
    """All ten samples come, the last two in a batch of their own, and `len` counts it."""
    reader = make_reader(urls)
    assert [len(batch["text"]) for batch in reader] == [4, 4, 2]
    assert len(reader) == 3


@pytest.mark.parametrize("n_workers", [0, 1, 8])
def test_any_number_of_workers_gives_all(urls: str, n_workers: int) -> None:
    """No worker, one, or more than there are tars: the same samples in the same order."""
    reader = EmbeddingWebDatasetReader(urls, 3, 4, n_workers, enable_text=False, enable_meta=True)
    assert read_captions(reader) == read_captions(make_reader(urls))


def test_without_a_length_nothing_is_padded(urls: str) -> None:
    """-1 gives every frame and no mask, one sample a batch; several lengths are refused."""
    reader = EmbeddingWebDatasetReader(urls, -1, 1, 0, enable_text=False)
    batches = list(reader)
    assert [list(batch) for batch in batches] == [["embeddings"]] * N_SAMPLES
    lengths = [batch["embeddings"].shape[1] for batch in batches]
    assert lengths == [1 + number % 4 for number in range(N_SAMPLES)]
    with pytest.raises(ValueError, match="samples of 1 to 4 frames in a batch of 4"):
        list(EmbeddingWebDatasetReader(urls, -1, 4, 0, enable_text=False))


def test_transform_takes_tensor_or_array(urls: str) -> None:
    """`embedding_transform` gets a padded tensor, or an array without `to_tensor`."""
    seen: list[type] = []

    def double(embeddings: Any) -> Any:
        seen.append(type(embeddings))
        return embeddings * 2

    plain = next(iter(make_reader(urls)))["embeddings"]
    for to_tensor in (True, False):
        reader = make_reader(urls, to_tensor=to_tensor, embedding_transform=double)
        assert torch.equal(next(iter(reader))["embeddings"], plain * 2)
    assert set(seen) == {torch.Tensor, np.ndarray}


def test_hosted_captions_are_read(tmp_path: Path) -> None:
    """`.cap`, which the hosted tars have and upstream's reader passes over, is the text."""
    write_members(
        tmp_path / "ds.tar",
        [("a.cap", b"yoga"), ("a.npy", npy_bytes(np.ones((2, 4), np.float32)))],
    )
    (batch,) = make_reader(str(tmp_path / "ds.tar"))
    assert batch["text"] == ["yoga"]
    assert batch["embeddings"].dtype == torch.float32


def test_tokeniser_is_loaded_only_for_tokens(urls: str) -> None:
    """A tokeniser that cannot be loaded does no harm where no tokens are asked for."""
    reader = make_reader(urls, tokenizer="/nowhere/clip", enable_text=False)
    assert "text_tokens" not in next(iter(reader))
    with pytest.raises(OSError, match="/nowhere/clip"):
        next(iter(make_reader(urls, tokenizer="/nowhere/clip")))


def test_bad_tar_does_not_end_the_run(urls: str, caplog: pytest.LogCaptureFixture) -> None:
    """A truncated tar is named, what is before comes, and the next tar; or it is raised."""
    path = Path(urls.replace("{000000..000001}", "000000"))
    fourth = list(scan_shard(path))[3]
    path.write_bytes(path.read_bytes()[: fourth.npy_offset])
    with caplog.at_level(logging.WARNING):
        assert len(read_captions(make_reader(urls))) == 3 + 4
    assert "ds_000000.tar: truncated" in caplog.text
    with pytest.raises(DamageError, match=r"ds_000000\.tar: truncated"):
        read_captions(make_reader(urls, on_error="raise"))


def test_shuffled_epochs_differ_and_are_whole(urls: str) -> None:
    """`shuffle` gives every sample once in each epoch, in another order."""
    reader = make_reader(urls, shuffle=True)
    epochs = [read_captions(reader) for _ in range(3)]
    plain = read_captions(make_reader(urls))
    assert all(sorted(epoch) == sorted(plain) for epoch in epochs)
    assert len({tuple(epoch) for epoch in [*epochs, plain]}) == 4


def test_an_epoch_that_is_left_is_followed_by_the_next(urls: str) -> None:
    """A loop bounded by the length, or left early, reads another order each time."""
    reader = make_reader(urls, shuffle=True)
    right = [read_captions(reader) for _ in range(3)]
    reader = make_reader(urls, shuffle=True)
    bounded = [text for batch in islice(reader, len(reader)) for text in batch["meta"]]
    next(iter(reader))
    assert [bounded, read_captions(reader)] == [right[0], right[2]]
    reader.set_epoch(1)
    next(iter(reader))
    reader.set_epoch(1)
    assert read_captions(reader) == right[1]


@pytest.mark.parametrize("shuffle", [False, True])
def test_state_resumes_at_the_next_batch(urls: str, *, shuffle: bool) -> None:
    """A state that is loaded elsewhere goes on behind the batch that was yielded last."""
    reader = make_reader(urls, shuffle=shuffle)
    iterator = iter(reader)
    next(iterator)
    resumed = make_reader(urls, shuffle=shuffle)
    resumed.load_state_dict(reader.state_dict())
    rest = [text for batch in iterator for text in batch["meta"]]
    assert read_captions(resumed) == rest
    assert len(rest) == N_SAMPLES - 4


@pytest.mark.parametrize(("length", "size"), [(0, 4), (-2, 4), (3, 0)])
def test_impossible_sizes_are_refused(urls: str, length: int, size: int) -> None:
    """Lengths other than -1 and sizes below 1 are refused with what came."""
    with pytest.raises(ValueError, match=f"got batch_size = {size} and standard_seq_len"):
        EmbeddingWebDatasetReader(urls, length, size, 0)


def test_an_index_beside_the_tars_is_used(urls: str, caplog: pytest.LogCaptureFixture) -> None:
    """Shuffling tars of the brace form needs no look at all of them where an index lies there."""
    directory = Path(urls).parent
    (directory / "splits.csv").write_text("tar_file,split\nds_000000,train\nds_000001,val\n")
    write_index(directory)
    reader = make_reader(urls, shuffle=True)
    assert len(reader) == 3
    assert sorted(read_captions(reader)) == sorted(read_captions(make_reader(urls)))
    assert not caplog.records
