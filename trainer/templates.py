"""Templates: texts with ``{c}`` where the class name goes."""

from __future__ import annotations

import open_clip

from schemas.errors import UserError
from shards import places

TEMPLATES_NAME = "zeroshot_classification_templates.txt"
"""CLIP_benchmark's file beside a data set: one template a line."""

_BUILT_IN = {
    "openai": open_clip.OPENAI_IMAGENET_TEMPLATES,
    "simple": open_clip.SIMPLE_IMAGENET_TEMPLATES,
}


def load_templates(spec: str) -> tuple[str, ...]:
    """Templates by name, or from a file.

    Args:
        spec: ``openai`` (80), ``simple`` (7), or a file with one template a line.

    Raises:
        UserError: the file is not there, is empty, or has a line without ``{c}``.
    """
    if spec in _BUILT_IN:
        return tuple(template("{c}") for template in _BUILT_IN[spec])
    if not places.exists(spec) or places.is_folder(spec):
        raise UserError(
            f"{spec!r} is no file of templates; give a file, or one of {', '.join(_BUILT_IN)}."
        )
    try:
        text = places.read_bytes(spec).decode()
    except UnicodeDecodeError:
        raise UserError(
            f"{spec!r} is not a text file in UTF-8; give one template a line."
        ) from None
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not lines:
        raise UserError(f"{spec!r} holds no templates; write one with {{c}} a line.")
    for line in lines:
        if "{c}" not in line:
            raise UserError(f"{spec!r}: the template {line!r} has no {{c}} for the class name.")
    return lines


def templates_for(place: str, spec: str | None) -> tuple[str, ...]:
    """The templates of a data set: those asked for, its own, or OpenAI's 80.

    Args:
        place: the data set, as shards.sources.open_labelled takes it.
        spec: as load_templates, or None where the user did not say.

    Raises:
        UserError: as load_templates.
    """
    if spec is not None:
        return load_templates(spec)
    folder = place if places.is_folder(place) else places.parent_and_name(place)[0]
    parent, name = places.parent_and_name(folder)
    for where in (folder, parent) if name in ("train", "test") else (folder,):
        own = places.join(where, TEMPLATES_NAME)
        if places.exists(own):
            return load_templates(own)
    return load_templates("openai")


def fill(template: str, name: str) -> str:
    """The text of a class; other braces in the template or the name mean nothing."""
    return template.replace("{c}", name)
