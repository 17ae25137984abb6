"""The sentence for the user in whatever a runner raises."""

from __future__ import annotations

import re

from schemas.errors import UserError


def user_sentence(error: BaseException) -> str | None:
    """Find the UserError that ended a job: runners wrap what a worker raised, or quote it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, UserError):
            return re.sub(r" \[while running '.*", "", str(seen), flags=re.DOTALL)
        seen = seen.__cause__ or seen.__context__
    found = re.findall(
        r"schemas\.errors\.UserError: (.*?)(?: \[while running|\\n|\n|$)", str(error)
    )
    return found[-1] if found else None
