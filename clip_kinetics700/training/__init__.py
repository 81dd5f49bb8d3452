"""Feeds a training loop: datasets or rows come in, padded batches of tensors go out.

It alone needs torch, so nothing outside imports it at the top of a module, and the loading script
does not carry it. Others use `batches.batches`, `collate.collate` and
`upstream.EmbeddingWebDatasetReader`, all of which `clip_kinetics700` exports.
"""
