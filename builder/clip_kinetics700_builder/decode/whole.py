"""Finds out whether a video file is whole: what its container states against what is there."""

from typing import BinaryIO

from clip_kinetics700_builder.decode.checks import MAX_DURATION_SECONDS, open_video_file
from clip_kinetics700_builder.decode.demux import AVI, Video, open_container
from clip_kinetics700_builder.types import ClipError

# Headers round, and count a frame more or less.
TRUNCATED_SECONDS = 1.0
# FFmpeg states durations of containers in microseconds.
CONTAINER_TICKS = 1_000_000
ASF, MP4 = "asf", "mov,mp4,m4a,3gp,3g2,mj2"
ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
# No header of an ASF is longer than that.
ASF_HEADER_BYTES = 2**20


def check_whole(video: Video) -> None:
    """Compare what a container states with what it holds.

    Raises:
        ClipError: the content ends well before it should.
    """
    if video.packets.is_corrupt[-1]:
        raise ClipError("decode", "truncated", "the file ends in the middle of a frame")
    check_duration(video)
    check_count(video)
    stated, found = find_stated_size(video), video.container.size
    if stated > found:
        message = f"the file has {found} bytes, its header states {stated}"
        raise ClipError("decode", "truncated", message)


def check_duration(video: Video) -> None:
    """Raise ClipError if the content ends well before the end that the header states."""
    packets, stream = video.packets, video.stream
    content_end = packets.seconds(packets.end)
    if stream.duration is not None:
        stated_end = packets.seconds((stream.start_time or 0) + stream.duration)
    else:
        stated_end = (video.container.duration or 0) / CONTAINER_TICKS
    # No video is as long as a header states that does not know.
    is_early = content_end + TRUNCATED_SECONDS < stated_end <= MAX_DURATION_SECONDS
    if is_early and stream.duration is None:
        # The container ends with its longest stream, which may well be the sound.
        content_end = find_end(video.path)
        is_early = content_end + TRUNCATED_SECONDS < stated_end
    if is_early:
        message = f"the content ends at {content_end:.2f} s, the header states {stated_end:.2f} s"
        raise ClipError("decode", "truncated", message)


def find_end(path: str) -> float:
    """Return the second at which the last packet of any stream ends."""
    with open_container(path) as container:
        return max(
            float((packet.pts + (packet.duration or 0)) * packet.time_base)
            for packet in container.demux()
            if packet.pts is not None
        )


def check_count(video: Video) -> None:
    """Raise ClipError if an AVI lacks a second of the frames that its header counts.

    Where the index at its end is lost, FFmpeg counts anew how long an AVI lasts. In other
    containers, edit lists hide frames that are counted.
    """
    stated, found = video.stream.frames, len(video.packets.pts)
    rate = float(video.stream.average_rate or 0)
    if video.container.format.name == AVI and stated - found > TRUNCATED_SECONDS * rate:
        message = f"the file holds {found} frames, the header states {stated}"
        raise ClipError("decode", "truncated", message)


def find_stated_size(video: Video) -> int:
    """Return how many bytes an ASF or a fragmented MP4 has by its own account, 0 for any other.

    These lose what lay behind a cut without a trace in what FFmpeg says of them.
    """
    container = video.container.format.name
    if container not in (ASF, MP4):
        return 0
    with open_video_file(video.path) as file:
        return find_asf_size(file) if container == ASF else find_end_of_boxes(file)


def find_asf_size(file: BinaryIO) -> int:
    """Return how many bytes the header of an ASF states, 0 for one that was broadcast."""
    _, _, found = file.read(ASF_HEADER_BYTES).partition(ASF_FILE_PROPERTIES)
    # The object's size and the file's name come first.
    is_broadcast = bool(found[72:73] and found[72] & 1)
    return 0 if is_broadcast else int.from_bytes(found[24:32], "little")


def find_end_of_boxes(file: BinaryIO) -> int:
    """Return where the last box of a fragmented MP4 ends, 0 where no box is a fragment."""
    place, is_fragmented = 0, False
    while file.seek(place) == place and len(head := file.read(16)) >= 8:
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        is_fragmented |= kind == b"moof"
        if size == 1:
            size = int.from_bytes(head[8:], "big")
        if size < 8:
            break  # the last one, up to the end
        place += size
    return place if is_fragmented else 0
