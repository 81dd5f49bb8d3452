"""Loads the text tower of a Hugging Face CLIP model, which puts texts beside its pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from clip_kinetics700_builder.encode.model_files import ModelFiles, describe_error, read_object
from clip_kinetics700_builder.encode.vision import LOAD_ERRORS, import_transformers, load_model
from clip_kinetics700_builder.types import Float32Array, InputError

TEXTS_PER_BATCH = 112
TOKENIZER_FILES = ({"tokenizer.json"}, {"vocab.json", "merges.txt"})


@dataclass(frozen=True, slots=True, eq=False)
class TextEncoder:
    """A CLIP text tower with its projection and tokenizer, in float32 on the CPU."""

    model: Any
    """`CLIPTextModelWithProjection`."""
    tokenizer: Any
    max_tokens: int
    """The most tokens of a text; a longer text is cut, as CLIP does."""

    def encode(
        self, texts: Sequence[str], *, advance: Callable[[int], None] = lambda _: None
    ) -> Float32Array:
        """Return (n_texts, width) float32 `text_embeds`, not normalised; `advance` counts texts."""
        found = []
        for begin in range(0, len(texts), TEXTS_PER_BATCH):
            batch = list(texts[begin : begin + TEXTS_PER_BATCH])
            tokens = self.tokenizer(
                batch,
                padding=True,
                truncation=True,
                max_length=self.max_tokens,
                return_tensors="pt",
            )
            with torch.inference_mode():
                embeds = self.model(
                    input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
                ).text_embeds
            found.append(np.asarray(embeds.float()))
            advance(len(batch))
        return np.concatenate(found)


def load_text_encoder(files: ModelFiles) -> TextEncoder:
    """Load the text tower of a whole CLIP.

    Raises:
        InputError: the directory holds no text tower or no tokenizer, or the two do not fit.
    """
    config = read_object(files.directory / "config.json", files.name)
    if config.get("model_type") != "clip":
        raise InputError(
            f"model {files.name}: config.json says model_type {config.get('model_type')!r}, which "
            "has no text tower; a whole CLIP model (clip) is needed"
        )
    model = load_model(files, torch.float32, kind="text")
    tokenizer = load_tokenizer(files)
    n_tokens, n_vectors = len(tokenizer), int(model.config.vocab_size)
    if n_tokens > n_vectors:
        raise InputError(
            f"model {files.name}: its tokenizer has {n_tokens} tokens, its text tower {n_vectors}"
        )
    return TextEncoder(model, tokenizer, int(model.config.max_position_embeddings))


def load_tokenizer(files: ModelFiles) -> Any:
    """Return the tokenizer that lies beside the weights."""
    # Without these files transformers makes a tokenizer of its own, with two tokens.
    names = {path.name for path in files.directory.iterdir()}
    if not any(names >= kind for kind in TOKENIZER_FILES):
        raise InputError(
            f"model {files.name}: holds no tokenizer (tokenizer.json, or vocab.json and merges.txt)"
        )
    # For a file that is no object the tokenizers library raises nothing that helps.
    for name in sorted(names & {"tokenizer.json", "vocab.json"}):
        read_object(files.directory / name, files.name)
    try:
        return import_transformers().AutoTokenizer.from_pretrained(
            files.directory, trust_remote_code=False
        )
    except Exception as error:
        # The tokenizers library has no class of its own for its errors.
        if type(error) is not Exception and not isinstance(error, LOAD_ERRORS):
            raise
        raise InputError(
            f"model {files.name}: its tokenizer cannot be loaded: {describe_error(error)}"
        ) from error
