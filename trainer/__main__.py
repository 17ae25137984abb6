"""``anchorft-train``: finetune a CLIP. See trainer.config for what it takes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from schemas.errors import UserError
from trainer.config import parse
from trainer.results import table
from trainer.signals import STOPPED_STATUS, Stopped
from trainer.train import train


def main(argv: Sequence[str] | None = None) -> int:
    """Train; 0 when the run is finished, 2 when something must be mended, 143 after a signal."""
    # The loader's processes are the parallelism; tokenizers would warn that they fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        result = train(parse(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        print(f"anchorft-train: error: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"anchorft-train: {stopped}.", file=sys.stderr)
        return STOPPED_STATUS
    except KeyboardInterrupt:
        print("anchorft-train: stopped; the same command goes on.", file=sys.stderr)
        return 130
    if not result.steps:
        print(f"{result.output}: this run is finished already")
    if result.results:
        print(table(result.results))
    print(f"{result.output}: model, metrics.jsonl, loss.png, config.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
