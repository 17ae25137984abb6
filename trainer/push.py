"""``anchorft-push``: a finished run to the Hugging Face Hub, in open_clip's layout.

``hf-hub:ORG/NAME`` then loads it. Only the files of the model folder are sent, as one commit; the
history of the run stays here unless it is asked for.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.clip import CONFIG_NAME, WEIGHTS_NAME
from schemas.errors import UserError
from trainer.card import CARD_NAME
from trainer.checkpoint import STATE, has_state
from trainer.classifier import CLASSIFIER_NAME
from trainer.metrics import METRICS_NAME
from trainer.options import Parser
from trainer.output import LOSS_NAME
from trainer.run_file import RESULTS_NAME, RUN_NAME, read_run

HISTORY = (METRICS_NAME, LOSS_NAME, RUN_NAME, RESULTS_NAME)
_MODEL = (CONFIG_NAME, WEIGHTS_NAME, CLASSIFIER_NAME, CARD_NAME)
_TOKENIZER = ("*token*.json", "vocab*", "merges.txt", "*.model")


def push(run: Path, url: str, *, public: bool = False, history: bool = False) -> str:
    """Send a finished run.

    Args:
        run: its folder, or the ``best`` folder in it.
        url: ``hf://ORG/NAME``, with ``@BRANCH`` for another than main; made if it is not there.
        public: a repository that is made is for everybody to see.
        history: metrics, loss plot, results and resolved options go along. The latter name paths
            of this machine.

    Returns:
        The address of the commit.

    Raises:
        UserError: the folder holds no finished run, or the Hub refuses.
    """
    found = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", url)
    if found is None or found[1].startswith("datasets/"):
        raise UserError(f"{url!r} is not of the form hf://ORG/NAME[@BRANCH].")
    files = model_files(run) + ([run / name for name in HISTORY] if history else [])
    api, operation = _client()
    repo, branch = found[1], found[2] or "main"
    try:
        api.create_repo(repo, private=not public, exist_ok=True)
        if branch != "main":
            api.create_branch(repo, branch=branch, exist_ok=True)
        made = api.create_commit(
            repo,
            [operation(file.name, str(file)) for file in files if file.exists()],
            commit_message="A model trained by anchorft",
            revision=branch,
        )
    except Exception as error:  # the client raises many kinds; all mean the same here
        text = " ".join(str(error).split())
        raise UserError(
            f"{url!r} could not be written ({type(error).__name__}: {text}); nothing is lost: run "
            f"the same again."
        ) from error
    return str(made.commit_url)


def model_files(run: Path) -> list[Path]:
    """The files of a finished run that make the model folder.

    Raises:
        UserError: there is no finished run.
    """
    if read_run(run) is None:
        raise UserError(f"{str(run)!r} holds no run; give the --output of one.")
    if has_state(run) or not (run / CONFIG_NAME).exists():
        raise UserError(
            f"the run in {str(run)!r} is not finished (its checkpoints are in {STATE!r}); run the "
            f"command that began it again to go on."
        )
    tokenizer = {file for pattern in _TOKENIZER for file in run.glob(pattern)}
    return [file for name in _MODEL if (file := run / name).exists()] + sorted(tokenizer)


def _client() -> tuple[Any, Any]:
    try:
        from huggingface_hub import CommitOperationAdd, HfApi
    except ImportError:
        raise UserError(
            "the Hugging Face Hub needs the package huggingface_hub; pip install 'anchorft[hub]'."
        ) from None
    return HfApi(library_name="anchorft"), CommitOperationAdd


def _parser() -> Parser:
    parser = Parser(prog="anchorft-push", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "run", metavar="RUN", help="the --output of a finished run, or its best folder"
    )
    parser.add_argument("url", metavar="URL", help="hf://ORG/NAME, or hf://ORG/NAME@BRANCH")
    parser.add_argument(
        "--public", action="store_true", help="a repository that is made is public, not private"
    )
    parser.add_argument(
        "--history",
        action="store_true",
        help="send metrics, loss plot, results and resolved options too, which name paths of "
        "this machine",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Push; 0 when it is done, 2 when something must be mended first."""
    try:
        options = _parser().parse_strictly(sys.argv[1:] if argv is None else argv)
        where = push(Path(options.run), options.url, public=options.public, history=options.history)
    except UserError as error:
        print(f"anchorft-push: error: {error}", file=sys.stderr)
        return 2
    print(where)
    return 0


if __name__ == "__main__":
    sys.exit(main())
