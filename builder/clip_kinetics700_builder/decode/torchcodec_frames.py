"""Decodes the wanted frames of a video stream with torchcodec, which drives NVDEC.

It says nothing of damage, and its seeks miss frames in some containers: who calls decides by the
times of the frames that come back.
"""

import importlib
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip_kinetics700_builder.decode.checks import MAX_SLICE_BYTES
from clip_kinetics700_builder.decode.demux import MPEG_PS, Int64Array, MissedError, Video
from clip_kinetics700_builder.decode.frames import is_mirrored
from clip_kinetics700_builder.decode.preprocess import SAME_TIME_SECONDS
from clip_kinetics700_builder.types import InputError

# torchcodec raises these, without a class of its own, for anything wrong with a file.
DECODER_ERRORS = (RuntimeError, ValueError, IndexError)


def import_torchcodec() -> Any:
    """Return torchcodec, which is optional and takes seconds to import.

    Raises:
        InputError: it is not installed or cannot load FFmpeg's shared libraries.
    """
    try:
        return importlib.import_module("torchcodec")
    except ModuleNotFoundError:
        message = (
            "--decoder torchcodec: it is not installed: pip install 'clip-kinetics700[torchcodec]'"
        )
        raise InputError(message) from None
    except (ImportError, OSError, RuntimeError) as error:
        raise InputError(
            f"--decoder torchcodec: torchcodec {version('torchcodec')} and torch "
            f"{version('torch')} do not load; install FFmpeg's shared libraries, version 4 to 8 "
            "(`apt-get install ffmpeg` or `brew install ffmpeg`), Python's libpython, and the "
            "torch release this torchcodec was made for, or use --decoder pyav"
        ) from error


def pick_batches(
    video: Video, wanted: Int64Array, crop: Callable[[Tensor], Tensor], *, device: str
) -> dict[int, Tensor]:
    """Return the crop of the frame of each wanted packet, by its index.

    Args:
        video: whose packets are ordered.
        wanted: (n,) indices of packets, in the order of display.
        crop: makes (n, crop_height, crop_width, 3) uint8 of (n, height, width, 3) uint8 RGB.
        device: `cpu`, or the GPU that decodes.

    Raises:
        MissedError: a frame was not found, or would not come out as it is displayed.
    """
    # Behind a seek into MPEG-PS the frames have wrong times; torchcodec turns a picture, but does
    # not mirror or stretch it.
    if video.container.format.name == MPEG_PS or video.aspect != 1 or is_mirrored(video):
        raise MissedError
    open_decoder = import_torchcodec().decoders.VideoDecoder
    tick = float(video.packets.time_base)
    times = video.packets.pts[wanted] * tick
    crops: list[Tensor] = []
    try:
        decoder = open_decoder(
            video.path, num_ffmpeg_threads=1, dimension_order="NHWC", device=device
        )
        size = 3 * (decoder.metadata.height or 1) * (decoder.metadata.width or 1)
        for asked in np.array_split(times, -(-size * len(times) // MAX_SLICE_BYTES)):
            batch = decoder.get_frames_played_at((asked + SAME_TIME_SECONDS).tolist())
            if not np.allclose(batch.pts_seconds, asked, rtol=0, atol=tick / 2):
                raise MissedError
            crops.append(crop(batch.data).cpu())
    except DECODER_ERRORS as error:
        raise MissedError from error
    return dict(zip(wanted.tolist(), torch.cat(crops)[:, None], strict=True))
