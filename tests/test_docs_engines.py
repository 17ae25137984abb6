"""docs/engines.md: every build that it shows is one that our option parser takes."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from pipelines.options import parse
from schemas.errors import UserError

PAGE = (Path(__file__).parents[1] / "docs" / "engines.md").read_text("utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
LINES = [
    shlex.split(line)
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("anchorft-build")
]


def destinations() -> dict[str, str]:
    """Every option of Beam's and of ours, with the name under which its value is kept."""
    parser = argparse.ArgumentParser(conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    return {name: action.dest for action in parser._actions for name in action.option_strings}


def runner(options: PipelineOptions) -> str:
    return str(options.view_as(StandardOptions).runner or "DirectRunner")


def test_the_commands_are_understood() -> None:
    runners = {runner(parse(line[1:])[1]) for line in LINES}
    assert runners == {"DirectRunner", "DataflowRunner", "FlinkRunner", "PortableRunner"}


@pytest.mark.parametrize("line", LINES, ids=lambda line: str(line[1]))
def test_no_option_is_lost_on_the_way(line: list[str]) -> None:
    """A name that Beam does not know would be dropped by it, or refused by us."""
    options = parse(line[1:])[1].get_all_options()
    kept_as = destinations()
    for word in line[1:]:
        if not word.startswith("--"):
            continue
        name, _, value = word.partition("=")
        held = options[kept_as[name]]
        if value:
            assert value in ([str(one) for one in held] if isinstance(held, list) else [str(held)])


def test_options_in_the_text_exist() -> None:
    known = destinations()
    named = re.findall(r"`(--[a-z_]+)(?![a-z_-])", PAGE)
    assert len(named) > 5
    for name in named:
        assert name in known or name == "--worker_pool", name  # that is of Beam's image


def test_dask_is_refused() -> None:
    with pytest.raises(UserError, match="loses data silently"):
        parse(["--finetune", "a", "--pool", "b", "--output", "c", "--runner", "DaskRunner"])
