"""The machinery of options: a dataclass field that is also a command-line flag."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, Field, field, fields
from types import UnionType
from typing import Any, NamedTuple, NoReturn, Union, get_args, get_origin, get_type_hints

from schemas.errors import UserError

NONE = "none"
"""On the command line: no value, where a field may have none; no values, where it has several."""


def option(
    text: str, default: Any = MISSING, *, choices: Sequence[str] = (), harmless: bool = False
) -> Any:
    """A dataclass field that is also a flag.

    Args:
        text: help of the flag.
        default: of the field; a field without one is required.
        choices: the values allowed, if they are few.
        harmless: a run may be resumed with another value, since the weights do not depend on it.
    """
    metadata = {"help": text, "choices": tuple(choices), "harmless": harmless}
    return field(default=default, metadata=metadata)


def flag(name: str) -> str:
    """The flag of a field."""
    return "--" + name.replace("_", "-")


def closest(wanted: str, known: Iterable[str]) -> str | None:
    """The known name that is nearest, if one is near."""
    return next(iter(difflib.get_close_matches(wanted, list(known), n=1)), None)


def nearest(wanted: str, known: Iterable[str]) -> str:
    """`` (did you mean X?)``, or nothing where no name is near."""
    near = closest(wanted, known)
    return f" (did you mean {near}?)" if near else ""


class Type(NamedTuple):
    """What a field takes.

    Attributes:
        kind: str, int, float or bool.
        several: it is a tuple of these.
        optional: it may be None.
    """

    kind: type
    several: bool
    optional: bool

    def __str__(self) -> str:
        """In words, for an error."""
        one = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
        words = one[self.kind] + (", or a list of these" if self.several else "")
        return words + (", or null" if self.optional else "")


def types(config: type) -> dict[str, Type]:
    """The type of each field of a config dataclass."""
    return {name: _type(hint) for name, hint in get_type_hints(config).items()}


def _type(hint: Any) -> Type:
    optional = get_origin(hint) in (Union, UnionType)  # X | None
    if optional:
        hint = next(arg for arg in get_args(hint) if arg is not type(None))
    several = get_origin(hint) is tuple
    return Type(get_args(hint)[0] if several else hint, several, optional)


class Parser(argparse.ArgumentParser):
    """A parser that raises UserError where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        """Raise the complaint as one sentence."""
        raise UserError(f"{message}; see --help.")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse does, with the nearest choice."""
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(
                action,
                f"invalid choice: {value!r}{nearest(str(value), choices)}; it is one of "
                f"{', '.join(choices)}",
            )

    def parse_strictly(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse, and name the nearest flag when one is unknown.

        Raises:
            UserError: an unknown flag, a missing one, or a value that does not fit.
        """
        known, unknown = self.parse_known_intermixed_args(argv)
        if unknown:
            wanted = unknown[0].partition("=")[0]
            hint = nearest(wanted, self._option_string_actions)
            raise UserError(f"unknown option {wanted!r}{hint}; see --help.")
        return known


def add_flags(parser: argparse.ArgumentParser, config: type) -> None:
    """Add one flag for each field of a config dataclass; a flag that is not given leaves no trace.

    A number, a text or a list may be ``none`` where the field allows that; a switch has a
    ``--no-`` form.
    """
    group = parser.add_argument_group(str(config.__doc__).strip().rstrip("."))
    kinds = types(config)
    for item in fields(config):
        kind = kinds[item.name]
        settings: dict[str, Any] = {"dest": item.name, "default": argparse.SUPPRESS}
        settings["help"] = _help(item)
        if kind.kind is bool:
            settings["action"] = argparse.BooleanOptionalAction
        else:
            settings["type"] = _reader(kind)
            if item.metadata["choices"]:
                settings["choices"] = item.metadata["choices"]
        if kind.several:
            metavar = "DATA" if kind.kind is str else item.name.upper()
            settings |= {"action": _Several, "nargs": "+", "metavar": metavar}
        group.add_argument(flag(item.name), **settings)


def _help(item: Field[Any]) -> str:
    text: str = item.metadata["help"].replace("%", "%%")
    if item.default not in (MISSING, None, False, ()):
        text += f" (default: {item.default})"
    return text


def _reader(kind: Type) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if text == NONE and (kind.optional or kind.several):
            return None
        return kind.kind(text)

    read.__name__ = kind.kind.__name__  # argparse says "invalid float value"
    return read


class _Several(argparse.Action):
    """Values of a flag that may come again; ``none`` alone is no values."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        together = (*getattr(namespace, self.dest, ()), *values)
        if None in together:
            if len(together) > 1:
                raise argparse.ArgumentError(self, f"{NONE} stands alone")
            together = ()
        setattr(namespace, self.dest, together)
