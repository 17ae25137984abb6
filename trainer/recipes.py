"""Recipes: a run's options as a YAML file, in sections, several of them laid over each other.

Plain values are read as YAML 1.2 does (1e-5 is a number, ``no`` a word). Paths in a recipe are
relative to the working directory, as on the command line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from schemas.errors import UserError
from trainer.options import Type, closest, nearest, types

RECIPE_NAME = "recipe.yaml"
_TAG = "tag:yaml.org,2002:"
# YAML 1.2's core schema, in the order of trial; of a table by first characters.
_PLAIN = (
    ("null", r"null|Null|NULL|~|", "nN~"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, Any] = {}


for _name, _pattern, _first in _PLAIN:
    for _side in (_Loader, _Dumper):
        _side.add_implicit_resolver(
            _TAG + _name, re.compile(f"^(?:{_pattern})$"), [*_first, *([""] * (_name == "null"))]
        )


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Quoted with escapes where there is more in it than plain characters."""
    style = None if re.fullmatch(r"[!-~]*(?: [!-~]+)*", text) else '"'
    return dumper.represent_scalar(_TAG + "str", text, style)


_Dumper.add_representer(str, _text)


def recipe_text(values: Mapping[str, Mapping[str, Any]], *comments: str) -> str:
    """A configuration as a recipe, which read back is the same.

    Args:
        values: section to field to value, as TrainConfig.as_dict gives them.
        comments: lines above it.
    """
    above = "".join(f"# {line}\n" for line in comments)
    # Lines are not folded: a value that is long or odd stays what it is.
    body: str = yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, width=2**31)
    return above + body


def read_recipe(path: str, parts: Mapping[str, type]) -> dict[str, dict[str, Any]]:
    """Section to field to value, of those that a recipe names.

    Args:
        path: of a local YAML file.
        parts: the sections that there are, each with its config dataclass.

    Raises:
        UserError: the file is not there or no YAML, it names what there is not, or twice, or a
            value is of another type than the field.
    """
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"the recipe {path!r} cannot be read ({reason}); check the path.") from None
    try:
        root = yaml.compose(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError) as error:
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        raise UserError(f"the recipe {path!r}{line}: no YAML: {problem}.") from None
    found: dict[str, dict[str, Any]] = {}
    for section, node in _items(root, path, "sections, each with fields"):
        if section not in parts:
            hint = nearest(section, parts) or f"; there are {', '.join(parts)}"
            raise _error(path, node, f"there is no section {section!r}{hint}")
        known = types(parts[section])
        found[section] = {}
        for name, value in _items(node, path, f"fields of {section}, each with a value"):
            if name not in known:
                raise _error(path, value, f"{section} has no {name!r}{_elsewhere(name, parts)}")
            found[section][name] = _value(value, known[name], path, f"{section}.{name}")
    return found


def _elsewhere(name: str, parts: Mapping[str, type]) -> str:
    """Where a field that is not in its section may be meant to be."""
    where = {field: section for section, part in parts.items() for field in types(part)}
    if name in where:
        return f", which belongs under {where[name]}"
    near = closest(name, where)
    return f" (did you mean {where[near]}.{near}?)" if near else ""


def _items(node: Any, path: str, wanted: str) -> list[tuple[str, yaml.Node]]:
    """A mapping's keys and values; nothing at all is an empty one.

    Raises:
        UserError: it is no mapping, or a key comes twice.
    """
    if node is None or (isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "null"):
        return []
    if not isinstance(node, yaml.MappingNode):
        raise _error(path, node, f"here should be {wanted}")
    seen: dict[str, yaml.Node] = {}
    for key, value in node.value:
        name = str(key.value)
        if not isinstance(key, yaml.ScalarNode):
            raise _error(path, key, f"here should be {wanted}")
        if name in seen:
            raise _error(path, key, f"{name!r} comes twice")
        seen[name] = value
    return list(seen.items())


def _value(node: yaml.Node, kind: Type, path: str, name: str) -> Any:
    """A field's value; one value where several may be is a tuple of it."""
    if kind.several:
        if isinstance(node, yaml.SequenceNode):
            one = Type(kind.kind, several=False, optional=False)
            return tuple(_value(item, one, path, name) for item in node.value)
        if node.tag == _TAG + "null":
            return ()
    if isinstance(node, yaml.ScalarNode):
        tag = node.tag.removeprefix(_TAG)
        if tag == "null" and kind.optional:
            return None
        taken = {str: ("str",), int: ("int",), float: ("int", "float"), bool: ("bool",)}[kind.kind]
        if tag in taken:
            try:
                value = _scalar(node.value, kind.kind)
            except ValueError:  # !!int abc; a number of thousands of digits
                pass
            else:
                return (value,) if kind.several else value
        told = f"not {node.value!r}" if tag == "str" else f"not {node.value or 'null'}"
    else:
        told = "not a list" if isinstance(node, yaml.SequenceNode) else "not fields"
    raise _error(path, node, f"{name} takes {kind}, {told}")


def _scalar(text: str, kind: type) -> Any:
    if kind is bool:
        return text.lower() == "true"
    if kind is float:
        text = re.sub(r"\.(inf|nan)$", r"\1", text.lower())
    return kind(text)


def _error(path: str, node: yaml.Node, problem: str) -> UserError:
    return UserError(f"the recipe {path!r}, line {node.start_mark.line + 1}: {problem}.")
