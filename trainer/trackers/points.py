"""A line of metrics.jsonl as points of curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def points(entry: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line, by name; those of an inner object with its name before theirs."""
    found: dict[str, float] = {}
    for name, value in entry.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{inner}": number for inner, number in points(value).items()}
        elif name != "step" and isinstance(value, (int, float)):
            found[name] = float(value)
    return found
