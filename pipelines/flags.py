"""How the steps declare their options, and the checks that they share."""

from __future__ import annotations

import argparse
from typing import Any

from schemas.errors import UserError


def add(parser: argparse.ArgumentParser, name: str, **settings: Any) -> None:
    """Add an option under Beam's spelling (underscores) and the usual one (hyphens)."""
    names = [f"--{name}"] + ([f"--{name.replace('_', '-')}"] if "_" in name else [])
    parser.add_argument(*names, dest=name, **settings)


def at_least(options: argparse.Namespace, least: int, *names: str) -> None:
    """Check whole numbers.

    Raises:
        UserError: one is smaller.
    """
    for name in names:
        value = getattr(options, name)
        if value < least:
            must = "must not be negative" if least == 0 else f"must be at least {least}"
            raise UserError(f"--{name} is {value}; it {must}.")
