"""``anchorft-train``: finetune a CLIP. See trainer.config and trainer.recipes for what it takes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TextIO

from schemas.errors import UserError
from trainer.config import make_parser, resolve
from trainer.dry_run import dry_run
from trainer.parallel.processes import speaks
from trainer.recipes import recipe_text
from trainer.results import table
from trainer.signals import STOPPED_STATUS, Stopped
from trainer.train import train


def main(argv: Sequence[str] | None = None) -> int:
    """Train; 0 when the run is finished, 2 when something must be mended, 143 after a signal.

    Of several processes the first one says how it went. What must be mended every process says
    itself: it may be wrong on its machine alone.
    """
    # The loader's processes are the parallelism; tokenizers would warn that they fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    parser = make_parser()
    looking = parser.add_argument_group("Looking before running; these are no options of a run")
    looking.add_argument(
        "--print-config", action="store_true", help="print all options as a recipe, and end"
    )
    looking.add_argument(
        "--dry-run",
        action="store_true",
        help="open everything, take a few steps, say sizes, losses, memory and time; write nothing",
    )
    looking.add_argument(
        "--random-weights",
        action="store_true",
        help="with --dry-run: the model's architecture without its weights, so nothing is fetched",
    )
    try:
        options = parser.parse_strictly(sys.argv[1:] if argv is None else argv)
        if options.random_weights and not options.dry_run:
            raise UserError("--random-weights means nothing without --dry-run; leave it out.")
        config = resolve(options)
        if options.print_config:
            _say(recipe_text(config.as_dict()), end="")
            return 0
        if options.dry_run:
            _say("\n".join(dry_run(config, random_weights=options.random_weights)))
            return 0
        result = train(config)
    except UserError as error:
        print(f"anchorft-train: error: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        _say(f"anchorft-train: {stopped}.", file=sys.stderr)
        return STOPPED_STATUS
    except KeyboardInterrupt:
        print("anchorft-train: stopped; the same command goes on.", file=sys.stderr)
        return 130
    if not result.steps:
        _say(f"{result.output}: this run is finished already")
    if result.results:
        _say(table(result.results))
    _say(f"{result.output}: model, metrics.jsonl, loss.png, config.json, recipe.yaml")
    return 0


def _say(text: str, *, end: str = "\n", file: TextIO | None = None) -> None:
    if speaks():
        print(text, end=end, file=file)


if __name__ == "__main__":
    sys.exit(main())
