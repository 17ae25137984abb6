"""Options of the retrieve stage."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from pipelines.flags import add, at_least


@dataclass(frozen=True)
class RetrieveConfig:
    """How neighbours are searched.

    Attributes:
        k: neighbours per query.
    """

    k: int

    def recorded(self) -> dict[str, Any]:
        """For the manifest."""
        return {"k": self.k}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add(
        parser,
        "k",
        type=int,
        default=10,
        help="neighbours retrieved per finetune image (default: %(default)s)",
    )


def resolve(o: argparse.Namespace) -> RetrieveConfig:
    """Check the options.

    Raises:
        UserError: a value is out of range.
    """
    at_least(o, 1, "k")
    return RetrieveConfig(k=o.k)
