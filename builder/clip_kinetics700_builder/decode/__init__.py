"""Turns video files into the frames a model wants, in worker processes that may die.

Paths come in as a `DecodeTask`; `Frames` or the `Failure` of a clip go out. PyAV reads packets and
decodes, torchcodec can do the latter instead; transformers, and rooms other than config, system and
types, must not be imported here. Others use `video.make_task`, `video.Decoding`,
`preprocess.Preprocessing` and `pool.DecodePool`.
"""
