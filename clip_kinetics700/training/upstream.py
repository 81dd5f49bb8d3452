"""Replaces upstream's `EmbeddingWebDatasetReader`, with its signature, keys and order.

It reads without an index, from the first sample on; shuffling and `len` need the index that lies
beside the tars or above them, and make one where there is none.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import default_collate

from clip_kinetics700.damage import OnError, keep_whole
from clip_kinetics700.dataset import open_dataset
from clip_kinetics700.schema import Sample, encode_sample
from clip_kinetics700.shards import is_tar
from clip_kinetics700.training.ordering import order_epoch, read_ordered, shuffle_within

DEFAULT_TOKENIZER = "openai/clip-vit-base-patch32"
# Tokens that CLIP's text encoder takes.
N_TOKENS = 77
Tokenizer: TypeAlias = Callable[[list[str]], torch.Tensor]


def identity(embeddings: Any) -> Any:
    """Return embeddings of any shape and dtype as they are."""
    return embeddings


class EmbeddingWebDatasetReader:
    """Yields batches of the samples of tars as clip-video-encode's reader does."""

    def __init__(
        self,
        urls: str | Sequence[str],
        standard_seq_len: int,
        batch_size: int,
        num_prepro_workers: int,
        to_tensor: bool = True,
        enable_text: bool = True,
        enable_meta: bool = False,
        embedding_transform: Callable[[Any], Any] = identity,
        *,
        tokenizer: str | Tokenizer | None = DEFAULT_TOKENIZER,
        split: str | None = None,
        shuffle: bool = False,
        buffer_size: int = 10_000,
        seed: int = 0,
        on_error: OnError = "skip",
    ) -> None:
        """Open the tars; nothing is read yet.

        Args:
            urls: tars, also in the brace form `ds_{000000..000053}.tar`; or a directory, a
                repository of the Hub, an fsspec URL.
            standard_seq_len: frames that each sample is cut or padded with zeros to; -1 leaves them
                as they are, and batches of more than one sample then need equal lengths.
            batch_size: samples in a batch; the last one may hold fewer.
            num_prepro_workers: not used, upstream's signature has it: samples are read in this
                process, at the speed of memory, remote ones over sixteen connections.
            to_tensor: give `embedding_transform` a tensor instead of an array.
            enable_text: yield `text`, and `text_tokens` unless `tokenizer` is None.
            enable_meta: yield `meta`, the json of each sample as text.
            embedding_transform: applied to each sample's padded embeddings.
            tokenizer: makes `text_tokens`: a CLIP model's id or directory, loaded when the first
                tokens are needed; or a function from B texts to (B, 77) tokens; None for no tokens.
            split: one split of a directory or repository; None is all.
            shuffle: another order each epoch.
            buffer_size: rows over which they are mixed.
            seed: changes that order.
            on_error: `skip` damage with a warning, as one bad tar must not end a run, or `raise`.

        Raises:
            FileNotFoundError: there is no such tar or directory.
            ValueError: an option is wrong.
        """
        if batch_size < 1 or standard_seq_len < -1 or standard_seq_len == 0:
            raise ValueError(
                "batch_size must be at least 1 and standard_seq_len at least 1 or -1, "
                f"got {batch_size = } and {standard_seq_len = }"
            )
        del num_prepro_workers
        self.batch_size = batch_size
        self._n_frames = None if standard_seq_len == -1 else standard_seq_len
        self._to_tensor, self._transform = to_tensor, embedding_transform
        self._enable_text, self._enable_meta = enable_text, enable_meta
        self._tokenizer = tokenizer
        self._shuffle, self._buffer_size, self._seed = shuffle, buffer_size, seed
        self._dataset = open_dataset(expand_urls(urls), on_error=on_error).select(split)
        self._epoch = 0
        # The numbers of samples of this epoch that were yielded, and that are to be passed over.
        self._n_yielded = self._n_resumed = 0

    def __len__(self) -> int:
        """Count the batches; without an index that reads all samples once."""
        return math.ceil(len(self._dataset) / self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the batches of an epoch: the next one, though the last one was left early.

        Raises:
            DamageError: a sample or a tar is damaged and `on_error` is `raise`.
            ValueError: samples of several lengths are in one batch and none is to be padded.
        """
        self._epoch += self._n_yielded > self._n_resumed
        self._n_yielded, self._n_resumed = self._n_resumed, 0
        samples = islice(self._read_samples(), self._n_yielded, None)
        while group := list(islice(samples, self.batch_size)):
            self._n_yielded += len(group)
            yield self._make_batch(group)
        self._epoch, self._n_yielded = self._epoch + 1, 0

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch, or on in the epoch of a state that was loaded."""
        if epoch != self._epoch or self._n_yielded > self._n_resumed:
            self._epoch, self._n_yielded, self._n_resumed = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Return a state from which training resumes behind the batch that was yielded last."""
        return {"epoch": self._epoch, "n_samples": self._n_yielded}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Resume from a state: the next batch is the one that would have come there."""
        self._epoch = state["epoch"]
        self._n_yielded = self._n_resumed = state["n_samples"]

    def _read_samples(self) -> Iterator[Sample]:
        """Yield the samples of the epoch; only a shuffled one needs an index."""
        if not self._shuffle:
            yield from self._dataset
            return
        rows, seed = self._dataset.rows, (self._seed, self._epoch)
        if len(rows):
            rows = order_epoch(rows, self._dataset.index.file_numbers[rows], seed=seed)
        order = shuffle_within(rows, buffer_size=self._buffer_size, seed=seed)
        yield from keep_whole(read_ordered(order, self._dataset.read_rows), self._dataset.on_error)

    def _make_batch(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return samples as upstream's dictionary, in the order of its keys."""
        lengths = sorted({len(sample.embeddings) for sample in samples})
        if self._n_frames is None and len(lengths) > 1:
            raise ValueError(
                f"samples of {lengths[0]} to {lengths[-1]} frames in a batch of {len(samples)}: "
                "give standard_seq_len, or a batch_size of 1"
            )
        batch: dict[str, Any] = default_collate([self._standardize(s.embeddings) for s in samples])
        if self._enable_text:
            batch["text"] = [sample.caption for sample in samples]
            if self._tokenize is not None:
                batch["text_tokens"] = self._tokenize(batch["text"])
        if self._enable_meta:
            batch["meta"] = [dict(encode_sample(sample))["json"].decode() for sample in samples]
        return batch

    def _standardize(self, stored: npt.NDArray[Any]) -> dict[str, Any]:
        """Return (n_frames, width) floats as one sample's `embeddings`, transformed.

        If they are padded there is a `zero_mask`, (n_frames,) float64, before them.
        """
        n_frames = len(stored) if self._n_frames is None else self._n_frames
        padded = np.zeros((n_frames, stored.shape[1]), stored.dtype.newbyteorder("="))
        padded[: len(stored)] = stored[:n_frames]
        embeddings = self._transform(torch.from_numpy(padded) if self._to_tensor else padded)
        if self._n_frames is None:
            return {"embeddings": embeddings}
        zero_mask = (np.arange(n_frames) < len(stored)).astype(np.float64)
        return {"zero_mask": zero_mask, "embeddings": embeddings}

    @cached_property
    def _tokenize(self) -> Tokenizer | None:
        """The tokeniser; one given by name is loaded when it is first asked for."""
        given = self._tokenizer
        return load_tokenizer(given) if isinstance(given, str) else given


def load_tokenizer(model: str) -> Tokenizer:
    """Return a CLIP model's tokeniser: B texts become (B, 77) int32, zeros behind the end.

    Raises:
        OSError: there is no such model, or the Hub does not answer.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)

    def tokenize(texts: list[str]) -> torch.Tensor:
        encoded = tokenizer(
            texts, padding="max_length", truncation=True, max_length=N_TOKENS, return_tensors="pt"
        )
        # Hugging Face pads with the end token, OpenAI's `clip.tokenize` with zeros.
        tokens: torch.Tensor = encoded["input_ids"] * encoded["attention_mask"]
        return tokens.to(torch.int32)

    return tokenize


def expand_urls(urls: str | Sequence[str]) -> Any:
    """Return upstream's urls as `open` takes them: brace forms spelled out."""
    if isinstance(urls, str) and not is_tar(urls):
        return urls
    from braceexpand import braceexpand

    names = [urls] if isinstance(urls, str) else list(urls)
    return [tar for name in names for tar in braceexpand(name)]
