"""Turns what yt-dlp and ffmpeg say into a reason of the ledger and a line of ours.

Their texts hold colours, addresses and local paths; ours must not.
"""

import re

from clip_kinetics700_builder.sources.ledger import FETCH_REASONS

MAX_MESSAGE = 200

# The first pattern that is found counts: what is said of the video comes before the rest.
SITE_PATTERNS = (
    ("rate_limited", r"http error 429|too many requests|rate.limited|available, try again later"),
    ("bot_wall", r"not a bot|captcha|ip is likely being blocked|unusual traffic"),
    ("age_restricted", r"confirm your age|age.restricted|age.verification|for some users"),
    (
        "private",
        (
            r"private video|video is private|members.only|channel's members|premium members|"
            r"join this channel|requires payment|granted access|registered users"
        ),
    ),
    ("region_blocked", r"in your country|(in|from) your location|geo.?restrict"),
    (
        "gone",
        (
            r"been removed|removed by|terminated|no longer available|closed their|does not exist|"
            r"copyright (claim|grounds)|for violating"
        ),
    ),
    ("bot_wall", r"please sign in"),
    ("no_format", r"requested format is not|no video formats|drm protected|only images"),
)
NETWORK_PATTERNS = (
    ("rate_limited", r"http error 429"),
    ("timed_out", r"timed.?out|time-?out"),
    (
        "connection",
        (
            r"connection (was )?(reset|refused|aborted|closed)|remote end closed|more expected|"
            r"incompleteread|name or service|name resolution|getaddrinfo|failed to resolve|"
            r"network (is )?unreachable|no route to host|unable to connect|cannot connect|"
            r"\bssl\b|\btls\b|eof occurred|ends prematurely|broken pipe|input/output error"
        ),
    ),
)
HTTP_ERROR = re.compile(r"http error ([1-5]\d\d)")
COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
ADDRESS = re.compile(r"\b[a-z]+://\S+")
LOCAL_PATH = re.compile(r"(?:/[^\s/'\"]+){2,}/?")


def classify_error(message: str) -> str:
    """Return the reason, one of `FETCH_REASONS` or `http_NNN`, that a text of yt-dlp gives."""
    text = message.replace("\u2019", "'").lower()
    for reason, pattern in SITE_PATTERNS:
        if re.search(pattern, text):
            return reason
    return find_network_reason(text) or "unavailable"


def find_network_reason(message: str) -> str | None:
    """Return the reason if a text complains of the connection or the server, else None."""
    text = message.lower()
    status = HTTP_ERROR.search(text)
    if status is not None and status[1] != "429":
        return f"http_{status[1]}"
    for reason, pattern in NETWORK_PATTERNS:
        if re.search(pattern, text):
            return reason
    return None


def word_message(video_id: str, reason: str, text: str = "") -> str:
    """Return one line about a video, with the site's words only where ours say too little."""
    if reason.startswith("http_"):
        return f"{video_id}: the server answers with status {reason.removeprefix('http_')}"
    line = f"{video_id}: {FETCH_REASONS[reason]}"
    words = COLOUR.sub("", text).removeprefix("ERROR: ")
    words = re.sub(r"^\[[^\]]*\] (\S+: )?", "", words)
    words = LOCAL_PATH.sub("...", ADDRESS.sub("...", words.partition("; please report")[0]))
    words = " ".join("".join(c if c.isprintable() else " " for c in words).split())
    if reason != "unavailable" or not words:
        return line
    return f"{line}: {words}"[:MAX_MESSAGE]
