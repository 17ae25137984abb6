"""What ``verify`` finds: one finding says which file, which sample, what is wrong, what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

FETCH = "fetch the file again from where the set came from"
REWRITE = "the writer of the set is at fault: write the set again as docs/format.md says"


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        file: path below the set's folder.
        sample: key of the sample; "" where the whole file is meant.
        reason: a short stable identifier; docs/format.md lists them.
        detail: what was found, for a person.
        remedy: what to do about it.
    """

    file: str
    sample: str
    reason: str
    detail: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.file}, sample {self.sample}" if self.sample else self.file
        return f"{where}: {self.reason}: {self.detail}; {self.remedy}"

    def as_json(self) -> dict[str, str | None]:
        """Plain values; ``sample`` is None where the whole file is meant."""
        return asdict(self) | {"sample": self.sample or None}


Tell = Callable[[str, str, str], None]
"""``tell(sample, reason, detail)``: how a check of one file reports."""
