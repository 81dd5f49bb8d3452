"""Zero-shot evaluation takes for each clip the class whose text is nearest; it trains nothing."""

import numpy as np

from clip_kinetics700.schema import Protocol
from clip_kinetics700.texts import ClassTexts, score_clips
from clip_kinetics700_builder.config import ZeroShotConfig
from clip_kinetics700_builder.evaluate.class_texts import TextTarget, find_class_texts
from clip_kinetics700_builder.evaluate.clips import ClipBatch, open_evaluation
from clip_kinetics700_builder.evaluate.results import (
    Evaluation,
    Outcomes,
    join_outcomes,
    rank_classes,
    sum_up,
)
from clip_kinetics700_builder.system.progress import Progress, no_progress


def evaluate_zero_shot(config: ZeroShotConfig, *, progress: Progress = no_progress) -> Evaluation:
    """Return the result of a zero-shot evaluation, and what came of each clip.

    Raises:
        InputError: dataset, classes or model cannot be used, or do not belong together.
        DamageError: a clip is damaged, and damage is not to be skipped.
    """
    split = config.evaluation.split
    source = open_evaluation(config.evaluation, split, progress=progress)
    names = source.labels.names
    root = source.rows.dataset.layout.root
    target = TextTarget(source.name, root, source.manifest, source.width)
    texts, is_published = find_class_texts(target, names, config.text, progress=progress)
    batches = source.read(split)
    outcomes = join_outcomes([score_batch(batch, texts, config.protocol) for batch in batches])
    return sum_up(
        source,
        outcomes,
        packages=("numpy",) if is_published else ("numpy", "torch", "transformers"),
        task="zero-shot",
        protocol=config.protocol,
        model=texts.model,
        model_sha256=texts.model_sha256,
        parameters={
            "classes": len(names),
            "prompts": list(texts.prompts),
            "family": texts.family,
            "class_texts": "published" if is_published else "computed",
            "clips_without_answer": int((outcomes.predicted < 0).sum()),
        },
    )


def score_batch(batch: ClipBatch, texts: ClassTexts, protocol: Protocol) -> Outcomes:
    """Return the outcomes of a batch; a clip without frames is wrong."""
    scores = score_clips(batch.frames, batch.sizes, texts, protocol=protocol)
    scores[~scores.any(axis=1)] = -np.inf
    return rank_classes(scores, batch.labels)
