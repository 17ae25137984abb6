"""The two ways in which input can be wrong."""

from __future__ import annotations


class UserError(Exception):
    """Something that the user can mend; its text is one sentence for people.

    It names the file or option, the sample where there is one, and the remedy. Command lines
    print the sentence without a traceback and exit non-zero.
    """


class BadSample(Exception):
    """One sample cannot be used. It is counted under ``reason`` and the work goes on.

    Attributes:
        reason: a short stable identifier such as ``truncated_image``; reports count by it.
        detail: what was found, for a person.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[BadSample], tuple[str, str]]:
        return (BadSample, (self.reason, self.detail))
