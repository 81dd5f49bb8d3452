"""Frames and class texts in, how often the nearest text is the class out: streams, no training."""

import numpy as np

from clip_kinetics700.texts import ClassTexts, Protocol, score_clips
from clip_kinetics700_builder.config import ZeroShotConfig
from clip_kinetics700_builder.evaluate.class_texts import TextTarget, find_class_texts
from clip_kinetics700_builder.evaluate.clips import ClipBatch, EvaluationSource, open_evaluation
from clip_kinetics700_builder.evaluate.results import (
    Evaluation,
    Outcomes,
    Run,
    join_outcomes,
    rank_classes,
    sum_up,
)


def evaluate_zero_shot(config: ZeroShotConfig) -> Evaluation:
    """Return the result document of a zero-shot evaluation, and what came of each clip.

    Raises:
        InputError: dataset, classes or model cannot be used, or do not belong together.
        DamageError: a clip is damaged, and damage is not to be skipped.
    """
    evaluation = config.evaluation
    source = open_evaluation(evaluation, evaluation.split)
    names = source.labels.names
    texts, is_published = find_class_texts(
        target_of(source), names, config.text, quiet=evaluation.quiet
    )
    batches = source.read(evaluation.split)
    outcomes = join_outcomes([score_batch(batch, texts, config.protocol) for batch in batches])
    run = Run(
        task="zero-shot",
        protocol=config.protocol,
        split=evaluation.split,
        dropped=source.dropped[evaluation.split],
        model={"id": texts.model, "sha256": texts.model_sha256},
        dataset=source.describe(),
        seed=evaluation.seed,
        parameters={
            "classes": len(names),
            "prompts": list(texts.prompts),
            "family": texts.family,
            "class_texts": "published" if is_published else "computed",
            "clips_without_answer": int((outcomes.predicted < 0).sum()),
        },
        packages=("numpy",) if is_published else ("numpy", "torch", "transformers"),
    )
    return sum_up(run, outcomes, names)


def target_of(source: EvaluationSource) -> TextTarget:
    """Return what texts are to be compared with."""
    root = source.rows.dataset.layout.root
    return TextTarget(source.name, root, source.manifest, source.width)


def score_batch(batch: ClipBatch, texts: ClassTexts, protocol: Protocol) -> Outcomes:
    """Return the outcomes of a batch; a clip without frames is wrong."""
    scores = score_clips(batch.frames, batch.sizes, texts, protocol=protocol)
    scores[~scores.any(axis=1)] = -np.inf
    return rank_classes(scores, batch.labels)
