"""Evaluation: what the embeddings of a dataset are worth, and what words find in them.

Clips of a dataset and a text model or a classifier come in, an `EvaluationResult` goes out. Heavy
libraries are imported where they compute; nothing here decodes video but the package's own test
clip. Others use `zero_shot.evaluate_zero_shot`, `linear_probe.evaluate_linear_probe`,
`attentive_probe.evaluate_attentive_probe`, `class_texts.embed_classes` and `search.search`.
"""
