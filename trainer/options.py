"""The machinery of options: a dataclass field that is also a command-line flag."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import MISSING, field, fields
from types import UnionType
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

from schemas.errors import UserError


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


class Parser(argparse.ArgumentParser):
    """A parser that raises UserError where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        """Raise the complaint as one sentence."""
        raise UserError(f"{message}; see --help.")

    def parse_strictly(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse, and name the nearest flag when one is unknown.

        Raises:
            UserError: an unknown flag, a missing one, or a value that does not fit.
        """
        known, unknown = self.parse_known_args(argv)
        if unknown:
            wanted = unknown[0].partition("=")[0]
            close = difflib.get_close_matches(wanted, list(self._option_string_actions), n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise UserError(f"unknown option {wanted!r}{hint}; see --help.")
        return known


def add_flags(parser: argparse.ArgumentParser, config: type) -> None:
    """Add one flag for each field of a config dataclass."""
    hints = get_type_hints(config)
    group = parser.add_argument_group(str(config.__doc__).strip().rstrip("."))
    for item in fields(config):
        hint = hints[item.name]
        if get_origin(hint) in (Union, UnionType):  # X | None
            hint = next(arg for arg in get_args(hint) if arg is not type(None))
        text = item.metadata["help"].replace("%", "%%")
        if item.default not in (MISSING, None, False, ()):
            text += f" (default: {item.default})"
        settings: dict[str, Any] = {"dest": item.name, "help": text}
        if item.default is MISSING:
            settings["required"] = True
        else:
            settings["default"] = item.default
        if hint is bool:
            settings["action"] = "store_true"
        elif get_origin(hint) is tuple:
            kind = get_args(hint)[0]
            metavar = "DATA" if kind is str else item.name.upper()
            settings |= {"action": "extend", "nargs": "+", "default": None, "metavar": metavar}
            settings["type"] = kind
        else:
            settings["type"] = hint
            if item.metadata["choices"]:
                settings["choices"] = item.metadata["choices"]
        group.add_argument(flag(item.name), **settings)
