"""Cuts a segment out of a video at an address, as an exact mp4, with the ffmpeg program."""

import errno
import os
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clip_kinetics700_builder.download.youtube_errors import (
    ADDRESS,
    find_network_reason,
    word_message,
)
from clip_kinetics700_builder.sources.ledger import FetchError

DURATION_TOLERANCE_SECONDS = 1.0
# A server that sends a byte now and then is never silent, so the whole cut has a limit too.
CUT_LIMIT_TIMEOUTS = 20
CUT_LIMIT_SECONDS_PER_SECOND = 10
CHECK_LIMIT_SECONDS = 60.0
COMPLAINT = re.compile(r"^(?:\[[^\]]* @ [^\]]*\] )?\[(?:warning|error|fatal)\] .*", re.MULTILINE)
DURATION = re.compile(r"^\[info\]   Duration: (\d+):(\d\d):(\d\d\.\d+),", re.MULTILINE)


def cut_segment(
    video: Mapping[str, Any], segment: tuple[int, int], path: Path, timeout_seconds: float
) -> str:
    """Write a segment of a video, encoded anew so that it is exact; return ffmpeg's messages.

    Args:
        video: what yt-dlp knows of it, with `id`, `url` and `http_headers`.
        segment: [start, end) in seconds.
        path: where to write the mp4.
        timeout_seconds: how long the server may be silent.

    Raises:
        FetchError: nothing was written.
    """
    begin, end = segment
    headers = "".join(f"{key}: {value}\r\n" for key, value in video["http_headers"].items())
    source = ["-headers", headers, "-rw_timeout", str(int(timeout_seconds * 1e6))]
    # An address in a playlist of the site must not lead to local files.
    source += ["-protocol_whitelist", "http,https,tcp,tls,crypto,httpproxy"]
    source += ["-ss", str(begin), "-t", str(end - begin), "-i", video["url"]]
    target = ["-map", "0:v:0", "-map", "0:a:0?", "-map_metadata", "-1", "-map_chapters", "-1"]
    target += ["-vf", "scale=trunc(iw/2)*2:trunc(ih/2)*2", "-c:v", "libx264", "-preset", "fast"]
    target += ["-crf", "18", "-pix_fmt", "yuv420p", "-c:a", "aac", "-movflags", "+faststart"]
    limit = CUT_LIMIT_TIMEOUTS * timeout_seconds + CUT_LIMIT_SECONDS_PER_SECOND * (end - begin)
    started = time.monotonic()
    result = run_ffmpeg([*source, *target, "-f", "mp4", "-y", f"file:{path}"], limit_seconds=limit)
    log = result.stderr
    if "No space left on device" in log:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path.parent))
    if result.returncode != 0:
        # When a server goes silent within a header, ffmpeg says only that the data is invalid.
        is_late = time.monotonic() - started >= timeout_seconds
        reason = find_network_reason(list_complaints(log))
        reason = reason or ("timed_out" if is_late else "cut_failed")
        # An empty file does not even have the first byte that was asked for.
        reason = "empty_file" if reason == "http_416" else reason
        raise FetchError(reason, word_message(video["id"], reason))
    return log


def check_segment(video: Mapping[str, Any], segment: tuple[int, int], path: Path, log: str) -> None:
    """Raise FetchError if a file lacks something that the video has of the segment."""
    begin, end = segment
    options = ["-map", "0:v:0", "-frames:v", "1", "-progress", "pipe:1", "-f", "null", "-"]
    result = run_ffmpeg(["-i", f"file:{path}", *options], limit_seconds=CHECK_LIMIT_SECONDS)
    stated = read_duration(log) or video.get("duration")
    missing = min(end, stated or end) - begin - (read_duration(result.stderr) or 0.0)
    has_frame = result.returncode == 0 and "frame=1" in result.stdout.split()
    reason = find_network_reason(list_complaints(log))
    if stated is not None and stated <= begin:
        message = f"{video['id']}: the video ends at {stated:.1f} s, before the segment begins"
        raise FetchError("cut_failed", message)
    if not has_frame:
        reason = reason or "cut_failed"
        raise FetchError(reason, word_message(video["id"], reason))
    # Where nobody says how long the video is, it may well end here.
    if missing > DURATION_TOLERANCE_SECONDS and (stated is not None or reason is not None):
        reason = reason or "truncated"
        raise FetchError(reason, f"{video['id']}: {missing:.1f} s are missing at the end")


def run_ffmpeg(arguments: list[str], *, limit_seconds: float) -> "subprocess.CompletedProcess[str]":
    """Run the ffmpeg program; each of its lines begins with its level."""
    command = ["ffmpeg", "-hide_banner", "-nostdin", "-nostats", "-v", "level+info", *arguments]
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=limit_seconds,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        message = f"ffmpeg had not ended after {limit_seconds:.0f} s"
        raise FetchError("timed_out", message) from None


def list_complaints(log: str) -> str:
    """Return the warnings and errors of ffmpeg, without addresses."""
    return ADDRESS.sub("", "\n".join(match[0] for match in COMPLAINT.finditer(log)))


def read_duration(log: str) -> float | None:
    """Return the seconds that ffmpeg states for its input; None where it does not know."""
    match = DURATION.search(log)
    if match is None:
        return None
    return 3600 * int(match[1]) + 60 * int(match[2]) + float(match[3])
