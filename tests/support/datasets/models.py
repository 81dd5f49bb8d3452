"""`save_whole_clip` saves a whole CLIP with random weights: both towers, processor and tokenizer.

Its vision tower equals that of a vision model that was saved alone, as in a user's two files.
"""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPVisionModelWithProjection

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
SEED = 1


def save_whole_clip(directory: Path, vision: Path, *, width: int | None = None) -> Path:
    """Save a CLIP whose vision tower is that of another directory; return its directory.

    A CLIP of another width than that has a projection of its own.
    """
    load: Any = CLIPVisionModelWithProjection.from_pretrained
    tower = load(vision)
    vocabulary = make_vocabulary()
    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": len(vocabulary),
        "bos_token_id": vocabulary[BEGIN],
        "eos_token_id": vocabulary[END],
        "pad_token_id": vocabulary[END],
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        own = tower.config.projection_dim
        model = CLIPModel(
            CLIPConfig(
                text_config=text, vision_config=tower.config.to_dict(), projection_dim=width or own
            )
        )
    model.vision_model.load_state_dict(tower.vision_model.state_dict())
    if width is None:
        model.visual_projection.load_state_dict(tower.visual_projection.state_dict())
    model.save_pretrained(directory)
    CLIPImageProcessorPil().save_pretrained(directory)
    write_tokenizer(directory, vocabulary)
    return directory


def make_vocabulary() -> dict[str, int]:
    """Return tokens of single letters, within a word and at its end, in CLIP's spelling."""
    letters = [*map(chr, range(ord("!"), ord("~") + 1))]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "th", "the</w>", BEGIN, END]
    return {token: number for number, token in enumerate(tokens)}


def write_tokenizer(directory: Path, vocabulary: dict[str, int]) -> None:
    """Write the files of a byte-pair tokenizer of two merges."""
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    special = {"bos_token": BEGIN, "eos_token": END, "pad_token": END, "unk_token": END}
    (directory / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = "#version: 0.2\nt h\nth e</w>\n"
    (directory / "merges.txt").write_text(merges, encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps({**config, **special}))
    (directory / "special_tokens_map.json").write_text(json.dumps(special))
