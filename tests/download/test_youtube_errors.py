"""Each text of yt-dlp gives a typed reason, and one line that holds nothing of this machine."""

import pytest

from clip_kinetics700_builder.download.youtube_errors import classify_error, word_message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[youtube] x: Private video. Sign in if you've been granted access", "private"),
        ("[youtube] x: Video unavailable. This video has been removed by the uploader", "gone"),
        ("Video unavailable. The YouTube account associated with it has been terminated", "gone"),
        ("Sign in to confirm you\u2019re not a bot. Use --cookies", "bot_wall"),
        ("Sign in to confirm your age. This video may be inappropriate", "age_restricted"),
        ("Join this channel to get access to members-only content", "private"),
        ("The uploader has not made this video available in your country", "region_blocked"),
        ("Unable to download webpage: HTTP Error 429: Too Many Requests", "rate_limited"),
        ("unable to download video data: HTTP Error 403: Forbidden", "http_403"),
        ("Requested format is not available", "no_format"),
        ("The read operation timed out", "timed_out"),
        ("X, who has blocked it in your country on copyright grounds", "region_blocked"),
        ("no longer available because the uploader has closed their YouTube account", "gone"),
        ("This content isn\u2019t available, try again later. rate-limited", "rate_limited"),
        ("HTTP Error 404: Not Found (caused by <HTTPError 404: Not Found>)", "http_404"),
        ("EOF occurred in violation of protocol (_ssl.c:1006)", "connection"),
        ("This live event will begin in 3 hours.", "unavailable"),
    ],
)
def test_texts_of_yt_dlp_have_a_reason(text: str, reason: str) -> None:
    """Each text of yt-dlp has one of the ledger's reasons."""
    assert classify_error(text) == reason


def test_a_message_tells_nothing_of_this_machine() -> None:
    """Colours, addresses and local paths of a text are not in the line of ours."""
    text = "\x1b[0;31mERROR:\x1b[0m [youtube] x: odd /home/me/secret/file at https://a.b/c?k=v"
    line = word_message("aaaaaaaaaaa", "unavailable", text)
    assert "secret" not in line
    assert "a.b" not in line
    assert line.isprintable()
