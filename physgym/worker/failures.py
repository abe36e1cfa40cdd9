"""Exceptions of environments, on their way to the parent."""

from __future__ import annotations

import traceback

from physgym.protocol.messages import Failure

LONGEST_TEXT, LONGEST_TRACEBACK = 1 << 14, 1 << 16  # characters of an exception's message and of its traceback


class RequestFailed(Exception):
    """An environment raised while a request was served; the cause is its exception.

    Args:
        env: Which one, among those of this process.
        doing: What was asked of it.
    """

    def __init__(self, env: int, doing: str) -> None:
        super().__init__(env)
        self.env, self.doing = env, doing

    def message(self) -> Failure:
        """Return the message that tells the parent."""
        return failure(self.env, self.__cause__ or self, self.doing)


def failure(env: int, error: BaseException, doing: str = "") -> Failure:
    """Return an exception as a message, of bounded length, also where the exception fails to give its text."""
    kind = type(error)
    try:
        text = "".join(traceback.format_exception(error))
    except Exception as fault:  # noqa: BLE001 - as above
        text = f"(its traceback cannot be formatted: {type(fault).__name__})"
    name = f"{kind.__module__}:{kind.__qualname__}"
    return Failure(env, _sendable(name), message_of(error), _sendable(text, LONGEST_TRACEBACK), _sendable(doing))


def message_of(error: BaseException) -> str:
    """Return the text of an exception, of bounded length without lone surrogates, also where it fails to give it."""
    try:
        return _sendable(str(error))
    except Exception as fault:  # noqa: BLE001 - the exception is what counts, not what its text is
        return f"({type(error).__qualname__}.__str__ raised {type(fault).__name__})"


def _sendable(text: str, longest: int = LONGEST_TEXT) -> str:
    """Return a text without lone surrogates, cut in the middle where it is longer than a person would read."""
    if len(text) > longest:
        kept = longest // 2
        text = f"{text[:kept]} [... {len(text) - 2 * kept} characters are left out ...] {text[-kept:]}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
