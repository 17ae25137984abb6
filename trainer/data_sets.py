"""The data sets that a model is measured on: named, grouped, opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.errors import UserError
from shards import places
from shards.sources import Source, open_labelled
from trainer.templates import templates_for

GROUPS = {
    "data": "data",
    "id": "in distribution",
    "shift": "domain shift",
    "zero_shot": "zero-shot",
}
"""Groups of data sets, by the name they have in results.json, with their name in the table."""


@dataclass(frozen=True)
class DataSet:
    """One labelled data set to measure on.

    Attributes:
        name: in tables and results.
        group: one of GROUPS.
        place: as shards.sources.open_labelled takes it.
        source: opened.
        templates: of the zero-shot head, with ``{c}``.
    """

    name: str
    group: str
    place: str
    source: Source
    templates: tuple[str, ...]


def open_data_sets(
    wanted: dict[str, Sequence[str]], *, split: str = "test", templates: str | None = None
) -> list[DataSet]:
    """Open data sets given as ``PATH`` or ``NAME=PATH``, so that a wrong path is known early.

    Args:
        wanted: group (see GROUPS) to its data sets.
        split: of CLIP_benchmark's layout.
        templates: as trainer.templates.templates_for.

    Raises:
        UserError: nothing there, no such split, or two data sets of one name.
    """
    opened: dict[str, DataSet] = {}
    for group, specs in wanted.items():
        for spec in specs:
            name, path = _name_and_path(spec)
            if name in opened:
                raise UserError(
                    f"two data sets are called {name!r}; name them as NAME={path} to tell them "
                    f"apart."
                )
            source = open_labelled(path, split=split)
            opened[name] = DataSet(name, group, path, source, templates_for(path, templates))
    return list(opened.values())


def _name_and_path(spec: str) -> tuple[str, str]:
    name, equals, path = spec.partition("=")
    if equals and name and "/" not in name:
        return name, path
    return places.parent_and_name(spec)[1], spec
