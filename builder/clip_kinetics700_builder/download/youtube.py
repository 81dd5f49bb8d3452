"""Gets segments of YouTube's videos, slowly and one at a time: the last source of a clip's bytes.

yt-dlp finds the video, the ffmpeg program cuts it. Only this module may touch yt-dlp.
"""

import logging
import math
import re
import subprocess
import time
from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from clip_kinetics700_builder.clips.records import VIDEO_ID
from clip_kinetics700_builder.download.youtube_cut import check_segment, cut_segment
from clip_kinetics700_builder.download.youtube_errors import COLOUR, classify_error, word_message
from clip_kinetics700_builder.sources.ledger import (
    FETCH_REASONS,
    YOUTUBE_PAUSES_SECONDS,
    FetchError,
    describe_clip,
    try_again,
)
from clip_kinetics700_builder.system.files import atomic_path
from clip_kinetics700_builder.types import Clip, InputError

log = logging.getLogger(__name__)

# The models want about 224 pixels of a centre crop.
MIN_SHORT_SIDE = 256
# ffmpeg reads these by itself; only yt-dlp can join the segments of DASH.
DIRECT_PROTOCOLS = ("http", "https")
PROTOCOLS = (*DIRECT_PROTOCOLS, "m3u8", "m3u8_native")


class BotWallError(FetchError):
    """YouTube refuses this machine, so that asking for more clips makes no sense."""

    def __init__(self, n_clips: int) -> None:
        """Take the number of clips that were refused in a row."""
        super().__init__(
            "bot_wall",
            f"YouTube refused {n_clips} clips in a row: it takes this machine for a bot. "
            "What helps: wait some hours, --cookies FILE of a browser that is signed in, "
            "fewer requests with --youtube-interval SECONDS",
        )


class Youtube:
    """Fetches clips, one after another."""

    def __init__(
        self,
        *,
        address: str,
        seconds_between: float,
        cookies: Path | None = None,
        max_bot_walls: int = 5,
        timeout_seconds: float = 30.0,
    ) -> None:
        """Check that everything is there that a download needs.

        Args:
            address: of a video's page, or of the video itself, with `{id}` in it.
            seconds_between: least time from the start of one download to that of the next.
            cookies: file of a signed-in browser, in Netscape's format; read, never written.
            max_bot_walls: how many refusals in a row end the download.
            timeout_seconds: how long a connection may be silent.

        Raises:
            InputError: yt-dlp or ffmpeg are missing, or the cookies cannot be used.
        """
        self._address = address
        self._seconds_between = seconds_between
        self._max_bot_walls = max_bot_walls
        self._timeout_seconds = timeout_seconds
        self._next_start = -math.inf
        self._n_refused = 0
        check_ffmpeg_program()
        text = None if cookies is None else read_cookies(cookies)
        self._downloader = open_downloader(text, timeout_seconds)

    def fetch(self, clip: Clip, final: Path) -> None:
        """Download a clip's segment; `final` is there, whole, if this returns.

        Raises:
            BotWallError: YouTube has refused too many clips in a row, this one too.
            FetchError: this clip cannot be had.
            OSError: it cannot be written.
        """
        try:
            try_again(lambda: self._fetch_once(clip, final), YOUTUBE_PAUSES_SECONDS)
        except FetchError as error:
            # YouTube names removed videos also to a machine that it takes for a bot: they neither
            # count as refusals nor end a row of them.
            if error.reason in ("bot_wall", "rate_limited"):
                self._n_refused += 1
                if self._n_refused >= self._max_bot_walls:
                    raise BotWallError(self._n_refused) from error
            raise
        self._n_refused = 0

    def _fetch_once(self, clip: Clip, final: Path) -> None:
        _, video_id, start, end, _ = describe_clip(clip)
        # The id becomes part of an address and of a file's name: it is checked once more.
        if VIDEO_ID.fullmatch(video_id) is None:
            raise FetchError("unavailable", f"{video_id[:40]!r} is no YouTube id")
        time.sleep(max(0.0, self._next_start - time.monotonic()))
        self._next_start = time.monotonic() + self._seconds_between
        video = self._find_video(video_id)
        with atomic_path(final) as partial:
            said = cut_segment(video, (start, end), partial, self._timeout_seconds)
            check_segment(video, (start, end), partial, said)

    def _find_video(self, video_id: str) -> Mapping[str, Any]:
        """Return what yt-dlp knows of a video and of the format that is chosen."""
        from yt_dlp.utils import YoutubeDLError

        address = self._address.format(id=video_id)
        try:
            video = self._downloader.extract_info(address, download=False)
        # An extractor raises the other errors when the site has changed.
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
    """Close the connections of answers that were errors; yt-dlp leaves them open."""
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
    """Return the text of a cookies file; yt-dlp would write the file itself back.

    Raises:
        InputError: the file cannot be read, or is in another format.
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
    """Return a quiet YoutubeDL that reads and writes no files but what it is asked for.

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
        "format": lambda context: choose_format(context["formats"]),
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
    """Passes the messages of yt-dlp on to our log, as details."""

    def debug(self, message: str) -> None:
        """Log a message without its colours."""
        log.debug("%s", COLOUR.sub("", message))

    info = warning = error = debug


def choose_format(formats: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the smallest format that is large enough, or else the largest; [] without video."""
    usable = [
        kind
        for kind in formats
        if kind.get("vcodec") != "none" and kind.get("protocol") in PROTOCOLS
    ]
    return sorted(usable, key=_rank_format)[:1]


def _rank_format(kind: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the rank of a format; the lower, the better it suits us."""
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
