"""Errors on the way to the Hub are sorted: what another attempt may mend, when, and in which words.

`tenacity` gets its policy from here; no message holds a token or a signed address.
"""

import logging
import re

import tenacity
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from clip_kinetics700.hub import UNAUTHORIZED
from clip_kinetics700_builder.types import BuildError, InputError

log = logging.getLogger(__name__)

ATTEMPTS = 8
MAX_PAUSE_SECONDS = 60.0
# What a server that is asked too much may make us wait, by `Retry-After`.
MAX_ASKED_PAUSE_SECONDS = 300.0
REFUSED = (UNAUTHORIZED, 403)
PASSING_STATUSES = {408, 409, 425, 429, 500, 502, 503, 504}
# huggingface_hub 1 raises httpx's error, 2 that of httpx2.
HTTPError: type[Exception] = next(kind for kind in HfHubHTTPError.__bases__ if kind is not OSError)
# What the client raises: of connections, of files and answers, of the storage, of no sense.
FAILURES: tuple[type[Exception], ...] = (HTTPError, OSError, RuntimeError, ValueError)
TOKEN = re.compile(r"\bhf_\w+")
QUERY = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]+")
ERRNO = re.compile(r"^\[Errno \d+\] ")


def make_retrying(first_pause_seconds: float) -> tenacity.Retrying:
    """Return what calls a function until it works, is refused or has failed too often.

    Its pauses double, and are at least as long as the server has asked for.
    """
    doubling = tenacity.wait_exponential(multiplier=first_pause_seconds, max=MAX_PAUSE_SECONDS)
    return tenacity.Retrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=lambda state: max(doubling(state), find_asked_pause(find_error(state))),
        retry=tenacity.retry_if_exception(is_passing),
        before_sleep=log_failure,
        reraise=True,
    )


def convert_error(name: str, error: Exception) -> Exception:
    """Return what ends the command in one line; an error of ours, or of a local file, stays."""
    if isinstance(error, BuildError | InputError) or is_local(error):
        return error
    text = f"{name}: {describe(error)}"
    refusal = find_refusal(error)
    is_refused = refusal is not None and refusal.response.status_code in REFUSED
    if is_refused or isinstance(error, HFValidationError):
        return InputError(text)
    if is_passing(error):
        text += f" ({ATTEMPTS} attempts); run this again to go on"
    return BuildError(text)


def list_causes(error: BaseException) -> list[BaseException]:
    """Return an error and what it was raised from."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    return causes


def find_refusal(error: BaseException) -> HfHubHTTPError | None:
    """Return the answer of a server behind an error, which the client wraps for LFS files."""
    return next((e for e in list_causes(error) if isinstance(e, HfHubHTTPError)), None)


def is_local(error: BaseException) -> bool:
    """Say whether the error is of a file of ours, which has a name."""
    return any(isinstance(e, OSError) and e.filename is not None for e in list_causes(error))


def is_passing(error: BaseException) -> bool:
    """Say whether another attempt may go better."""
    if isinstance(error, BuildError | InputError) or is_local(error):
        return False
    refusal = find_refusal(error)
    if refusal is None:
        # Connections, time-outs, the storage's own errors; ValueError is an answer of no sense.
        return isinstance(error, HTTPError | OSError | RuntimeError)
    # A signed link that has expired; the next attempt asks for a new one.
    is_signed = "authorization" not in refusal.response.request.headers
    status = refusal.response.status_code
    return status in PASSING_STATUSES or status > 500 or (is_signed and status in REFUSED)


def find_error(state: tenacity.RetryCallState) -> BaseException:
    """Return what the last attempt raised."""
    error = None if state.outcome is None else state.outcome.exception()
    return RuntimeError() if error is None else error


def find_asked_pause(error: BaseException) -> float:
    """Return the seconds that a server asked to wait for, 0 where it did not."""
    refusal = find_refusal(error)
    asked = "" if refusal is None else refusal.response.headers.get("retry-after", "")
    return min(float(asked), MAX_ASKED_PAUSE_SECONDS) if asked.isdecimal() else 0.0


def log_failure(state: tenacity.RetryCallState) -> None:
    """Say that an attempt failed, and when the next one is."""
    pause = 0.0 if state.next_action is None else state.next_action.sleep
    reason = describe(find_error(state))
    log.info("%s; attempt %d in %.0f s", reason, state.attempt_number + 1, pause)


def describe(error: BaseException) -> str:
    """Return one line without tokens and signatures."""
    refusal, cause = find_refusal(error), list_causes(error)[-1]
    if refusal is None:
        text = str(cause) or type(cause).__name__
    else:
        said = refusal.server_message or refusal.response.reason_phrase
        text = f"the Hub answers {refusal.response.status_code}: {said}"
    text = " ".join(text.split())
    return TOKEN.sub("hf_...", QUERY.sub(r"\1", ERRNO.sub("", text)))
