"""The last source of a clip's bytes: YouTube itself, asked slowly, one clip at a time.

In: clips. Out: their segments as mp4 files, or the reason why there is none. yt-dlp finds the
video, the ffmpeg program cuts it. The only module that touches yt-dlp.
"""

import logging
import math
import os
import re
import secrets
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from threading import Lock
from typing import Any

from clip_kinetics700_builder.download.youtube_cut import check_segment, cut_segment
from clip_kinetics700_builder.download.youtube_errors import COLOUR, classify_error, word_message
from clip_kinetics700_builder.sources.ledger import (
    FETCH_REASONS,
    FetchError,
    describe_clip,
    is_passing,
)
from clip_kinetics700_builder.system.files import sync_directory
from clip_kinetics700_builder.types import Clip, InputError

logger = logging.getLogger(__name__)

VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}")
# What the models want is 224 pixels or so, out of a centre crop.
MIN_SHORT_SIDE = 256
# ffmpeg reads these by itself; the segmented kind of DASH only yt-dlp puts together.
DIRECT_PROTOCOLS = ("http", "https")
PROTOCOLS = (*DIRECT_PROTOCOLS, "m3u8", "m3u8_native")
# Before another try of what may pass; at least `seconds_between` in any case.
PAUSES_SECONDS = (10.0, 30.0, 90.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class YoutubeConfig:
    """How YouTube is asked."""

    cookies: Path | None = None
    """Cookies of a signed-in browser, in Netscape's format; read, never written."""
    seconds_between: float = 5.0
    """Least time between the begins of two downloads."""
    max_bot_walls: int = 5
    """After so many refusals in a row it is asked no more."""
    timeout_seconds: float = 30.0
    """Of silence, after which a connection is given up."""
    address: str = "https://www.youtube.com/watch?v={id}"
    """Of a video's page, or of the video itself."""


class BotWallError(FetchError):
    """YouTube refuses this machine, so that asking for more clips makes no sense."""

    def __init__(self, n_clips: int) -> None:
        """Take how many clips in a row were refused."""
        super().__init__(
            "bot_wall",
            f"YouTube refused {n_clips} clips in a row: it takes this machine for a bot. "
            "What helps: wait some hours, --cookies FILE of a browser that is signed in, "
            "fewer requests with --youtube-interval SECONDS",
        )


class Youtube:
    """Fetches clips, one at a time also where several threads ask."""

    def __init__(self, config: YoutubeConfig) -> None:
        """Check that all is there that a download takes.

        Raises:
            InputError: yt-dlp or ffmpeg are missing, or the cookies cannot be used.
        """
        self._config = config
        self._lock = Lock()
        self._next_begin = -math.inf
        self._n_refused = 0
        check_ffmpeg_program()
        cookies = None if config.cookies is None else read_cookies(config.cookies)
        self._downloader = open_downloader(cookies, config.timeout_seconds)

    def fetch(self, clip: Clip, final: Path) -> None:
        """Download a clip's segment; `final` is there, whole, if this returns.

        Raises:
            BotWallError: YouTube has refused too many clips since the last that it gave; this
                clip is not got either.
            FetchError: this clip cannot be had.
            OSError: it cannot be written.
        """
        with self._lock:
            try:
                self._fetch_patiently(clip, final)
            except FetchError as error:
                # Removed videos are told behind a wall as well: they say nothing of the wall.
                if error.reason in ("bot_wall", "rate_limited"):
                    self._n_refused += 1
                    if self._n_refused >= self._config.max_bot_walls:
                        raise BotWallError(self._n_refused) from error
                raise
            self._n_refused = 0

    def _fetch_patiently(self, clip: Clip, final: Path) -> None:
        for pause in PAUSES_SECONDS:
            error = self._try_once(clip, final)
            if error is None:
                return
            logger.debug("%s: %s; another try in %g s", clip.video_id, error.reason, pause)
            time.sleep(pause)
        self._fetch_once(clip, final)

    def _try_once(self, clip: Clip, final: Path) -> FetchError | None:
        """Return what went wrong and may go right the next time; all else is raised."""
        try:
            self._fetch_once(clip, final)
        except FetchError as error:
            if not is_passing(error):
                raise
            return error
        return None

    def _fetch_once(self, clip: Clip, final: Path) -> None:
        _, video_id, start, end, _ = describe_clip(clip)
        # The id becomes part of an address and of a file's name: it is checked once more.
        if VIDEO_ID.fullmatch(video_id) is None:
            raise FetchError("unavailable", f"{video_id[:40]!r} is no YouTube id")
        remove_leftovers(final.parent, stem=clip.file_stem)
        time.sleep(max(0.0, self._next_begin - time.monotonic()))
        self._next_begin = time.monotonic() + self._config.seconds_between
        video = self._find_video(video_id)
        temporary = final.with_name(f".{clip.file_stem}.youtube.{secrets.token_hex(4)}.mp4")
        try:
            log = cut_segment(video, (start, end), temporary, self._config.timeout_seconds)
            check_segment(video, (start, end), temporary, log)
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(final)
            sync_directory(final.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def _find_video(self, video_id: str) -> Mapping[str, Any]:
        """Return what yt-dlp knows of a video and of the format that is chosen."""
        from yt_dlp.utils import YoutubeDLError

        address = self._config.address.format(id=video_id)
        try:
            video = self._downloader.extract_info(address, download=False)
        # The others are what an extractor raises when the site has changed.
        except (YoutubeDLError, LookupError, TypeError, ValueError, AttributeError) as error:
            close_answers(error)
            reason = classify_error(str(error))
            raise FetchError(reason, word_message(video_id, reason, str(error))) from None
        # Instead of a film that is for sale, YouTube gives its trailer.
        if not video or video.get("id") != video_id:
            raise FetchError("unavailable", f"{video_id}: the site gives another video instead")
        if video.get("live_status") in ("is_live", "is_upcoming"):
            raise FetchError("unavailable", f"{video_id}: is live, or has not begun")
        if not str(video.get("url")).startswith(("http://", "https://")):
            raise FetchError("no_format", f"{video_id}: {FETCH_REASONS['no_format']}")
        return dict(video)


def close_answers(error: BaseException | None) -> None:
    """Close the connections of answers that were errors, which yt-dlp leaves to the collector."""
    while error is not None:
        answer = getattr(error, "response", None)
        if answer is not None:
            answer.close()
        error = error.__context__


def check_ffmpeg_program() -> None:
    """Raise InputError if there is no ffmpeg program that writes H.264."""
    advice = "install it (`apt-get install ffmpeg` or `brew install ffmpeg`)"
    try:
        command = ["ffmpeg", "-v", "error", "-encoders"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        raise InputError(f"clips of YouTube are cut by the ffmpeg program: {advice}") from None
    if "libx264" not in result.stdout:
        raise InputError(f"this ffmpeg program has no encoder libx264: {advice}")


def read_cookies(path: Path) -> StringIO:
    """Return the text of a cookies file, which yt-dlp so never writes back.

    Raises:
        InputError: it cannot be read, or is in another format.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"cookies file {path}: cannot be read") from error
    # yt-dlp would print the lines that it does not understand, secrets and all.
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.removeprefix("#HttpOnly_").rstrip("\r\n").split("\t")
        if not line.strip() or fields[0].startswith("#"):
            continue
        if len(fields) != 7 or re.fullmatch(r"[0-9.]*", fields[4]) is None:
            raise InputError(f"cookies file {path} line {number}: is not in Netscape's format")
    return StringIO(text)


def open_downloader(cookies: StringIO | None, timeout_seconds: float) -> Any:
    """Return a quiet YoutubeDL that reads and writes nothing outside of what it is asked for.

    Raises:
        InputError: yt-dlp is not installed, or does not take the cookies.
    """
    try:
        import yt_dlp
        from yt_dlp.globals import plugin_dirs
    except ImportError as error:
        message = "yt-dlp is not installed: pip install 'clip-kinetics700[youtube]'"
        raise InputError(message) from error
    # Plug-ins are code that lies in the working directory or at home.
    plugin_dirs.value = []
    options = {
        "format": select_format,
        "allowed_extractors": ["youtube", "generic"],
        "socket_timeout": timeout_seconds,
        "extractor_retries": 0,
        "noplaylist": True,
        "cachedir": False,
        "quiet": True,
        "color": "no_color",
        "logger": _Quiet(),
        "cookiefile": cookies,
    }
    downloader = yt_dlp.YoutubeDL(options)
    try:
        _ = downloader.cookiejar
    except yt_dlp.utils.YoutubeDLError:
        raise InputError("the cookies file is not in Netscape's format") from None
    return downloader


class _Quiet:
    """Takes what yt-dlp has to say."""

    def debug(self, message: str) -> None:
        """Pass it on to our logger."""
        logger.debug("%s", COLOUR.sub("", message))

    info = warning = error = debug


def select_format(context: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """Return the one format that yt-dlp is to take, as its option `format` wants it."""
    chosen = choose_format(context["formats"])
    return [] if chosen is None else [chosen]


def choose_format(formats: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the smallest format that is large enough, else the largest; None if none has video."""
    usable = [
        kind
        for kind in formats
        if kind.get("vcodec") != "none" and kind.get("protocol") in PROTOCOLS
    ]
    return min(usable, key=_rank_format, default=None)


def _rank_format(kind: Mapping[str, Any]) -> tuple[float, ...]:
    """Return what is the lower the better a format suits us."""
    short_side = min((side for side in (kind.get("width"), kind.get("height")) if side), default=0)
    is_small = short_side < MIN_SHORT_SIDE
    return (
        # yt-dlp's own marks for formats that are damaged or will be refused.
        (kind.get("preference") or -1) < -5 or (kind.get("source_preference") or -1) < -10,
        is_small,
        -short_side if is_small else short_side,
        kind["protocol"] not in DIRECT_PROTOCOLS,
        kind.get("acodec") == "none",
        not str(kind.get("vcodec")).startswith("avc1"),
        kind.get("tbr") or math.inf,
    )


def remove_leftovers(directory: Path, *, stem: str = "*") -> None:
    """Remove what killed runs were about to write, of one clip or of all."""
    for path in directory.glob(f".{stem}.youtube.*.mp4"):
        path.unlink(missing_ok=True)
