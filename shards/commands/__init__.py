"""The commands of ``anchorft-shards``, a file each.

A command module has ``add_parser(commands)``, which adds its parser and sets ``run``: a function
of the parsed arguments that prints, and returns the exit status (0 done, 1 found something bad).
What cannot be run at all raises UserError, which the door turns into status 2. The work itself
lies in ``shards``; here is only what a terminal needs.
"""

from __future__ import annotations

from shards.commands import (
    diff,
    gallery,
    inspect,
    join,
    merge,
    pull,
    push,
    reshard,
    schema,
    strip,
    subset,
    upgrade,
    verify,
)

COMMANDS = (
    inspect,
    gallery,
    verify,
    schema,
    merge,
    subset,
    diff,
    reshard,
    strip,
    join,
    push,
    pull,
    upgrade,
)
