"""Turns frames into embeddings: the files of a model and frames come in, encoded clips go out.

Others use `model_files.find_model`, `vision.load_encoder`, `text.load_text_encoder` and
`batches.encode_frames`. Only `vision` may import transformers; nothing here knows
parts, archives or the published layout.
"""
