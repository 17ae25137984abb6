"""The options of a build: one PipelineOptions subclass, checked and resolved to plain data."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions

from pipelines import inference
from pipelines.captioning import options as captioning
from pipelines.config import BuildConfig, Machine
from pipelines.embedding import options as embedding
from pipelines.flags import add, at_least
from pipelines.retrieval import options as retrieval
from pipelines.selection import caption_options
from pipelines.selection import options as selection
from schemas.errors import UserError
from schemas.record import IMAGE_TEXT_PAIR, KINDS, TEXT_COMPENSATED
from shards import places

STAGES = ("caption", "embed", "screen", "retrieve", "select", "assemble")


class AnchorOptions(PipelineOptions):  # type: ignore[misc]
    """What a build is made from and how; every other Beam option may stand beside these."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        add(
            parser,
            "finetune",
            help="labelled images: an image folder, labelled webdataset tars "
            "(folder, brace range, glob, CLIP_benchmark root) or a CSV, TSV or parquet list",
        )
        add(
            parser,
            "pool",
            nargs="+",
            default=[],
            help="image-text pairs, one place or several: tars (folder, brace range, glob) as "
            "img2dataset writes them, CSV, TSV or parquet lists of path and caption, or folders "
            "with NAME.txt beside NAME.jpg",
        )
        add(parser, "output", help="folder of the anchor set, local or remote")
        add(
            parser,
            "work",
            help="folder for the stages' files, shared by the workers (default: OUTPUT.work)",
        )
        add(parser, "name", help="name of the set (default: the last part of OUTPUT)")
        add(
            parser,
            "stages",
            default=",".join(STAGES),
            help="comma-separated stages to run, on the files of those before (default: all)",
        )
        add(
            parser,
            "kinds",
            default=",".join(KINDS),
            help="comma-separated kinds of anchors to build (default: both)",
        )
        add(parser, "classnames", help="file of class names, if not beside the finetune images")
        for step in (captioning, caption_options, embedding, inference, retrieval, selection):
            step.add_options(parser)
        add(parser, "device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
        add(
            parser,
            "model_threads",
            type=int,
            default=0,
            help="torch threads per worker process (default: 0, the cores shared out between the "
            "direct runner's processes, else torch's own choice)",
        )
        add(
            parser,
            "decode_threads",
            type=int,
            default=2,
            help="threads that decode images (default: %(default)s)",
        )
        add(
            parser,
            "shard_size",
            type=int,
            default=10_000,
            help="anchors per shard (default: %(default)s)",
        )
        add(
            parser,
            "max_bad_fraction",
            type=float,
            default=0.01,
            help="fail when more than this share of a stage's samples is bad "
            "(default: %(default)s)",
        )
        add(
            parser,
            "force",
            action="store_true",
            help="redo every part, and replace the set that OUTPUT holds",
        )


def parse(argv: Sequence[str]) -> tuple[BuildConfig, PipelineOptions]:
    """Parse and check a command line.

    Raises:
        UserError: an unknown option, a value out of range, or options that contradict each other.
        SystemExit: ``--help``, or a value that argparse refuses.
    """
    parser = argparse.ArgumentParser(
        prog="anchorft-build",
        description="Build an anchor set: caption the finetune images, retrieve image-text pairs "
        "from a pool, and write both as shards. Any Beam pipeline option may follow.",
        allow_abbrev=False,
    )
    AnchorOptions._add_argparse_args(parser)
    known, rest = parser.parse_known_args(argv)
    _refuse_unknown(rest, parser)
    _refuse_engine(rest)
    config = _resolve(known)
    beam_options = list(argv)
    if not any(word.startswith("--default_sdk_harness_log_level") for word in beam_options):
        # Worker processes would log every step; what ends a job is raised here all the same.
        beam_options.append("--default_sdk_harness_log_level=CRITICAL")
    options = PipelineOptions(beam_options)
    if not config.machine.model_threads:
        machine = replace(config.machine, model_threads=_threads_a_worker(options))
        config = replace(config, machine=machine)
    return config, options


def _threads_a_worker(options: PipelineOptions) -> int:
    """Share the cores out between the direct runner's processes; 0 leaves it to torch.

    Torch takes every core in every process, and processes that fight over them are many times
    slower than one alone.
    """
    direct = options.view_as(DirectOptions)
    if direct.direct_running_mode != "multi_processing":
        return 0
    cores = os.cpu_count() or 1
    return max(1, cores // (direct.direct_num_workers or cores))


def _refuse_unknown(rest: list[str], ours: argparse.ArgumentParser) -> None:
    """Beam drops options that it does not know with a warning; a misspelt one must stop here."""
    theirs = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for options in PipelineOptions.__subclasses__():
        if options is not AnchorOptions:
            options._add_argparse_args(theirs)
    unknown = theirs.parse_known_args(rest)[1]
    if not unknown:
        return
    names = [
        o
        for parser in (ours, theirs)
        for action in parser._actions
        for o in action.option_strings
        if o.startswith("--")
    ]
    close = difflib.get_close_matches(unknown[0].split("=", 1)[0], names, n=1)
    hint = f"; did you mean {close[0]}?" if close else "; see --help."
    raise UserError(f"unknown option {unknown[0]!r}{hint}")


def _refuse_engine(rest: list[str]) -> None:
    """Beam's Dask runner (2.77) drops what is emitted at the end of a bundle, without a word."""
    runner = PipelineOptions(rest).view_as(StandardOptions).runner or ""
    if "dask" in runner.lower():
        raise UserError(
            f"--runner {runner} loses data silently; docs/engines.md names the runners that don't."
        )


def _listed(option: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    chosen = [part.strip() for part in text.split(",") if part.strip()]
    for part in chosen:
        if part not in known:
            raise UserError(f"{option} has {part!r}, but can only hold {', '.join(known)}.")
    if not chosen:
        raise UserError(f"{option} is empty; give at least one of {', '.join(known)}.")
    return tuple(part for part in known if part in chosen)


def _resolve(o: argparse.Namespace) -> BuildConfig:
    for name in ("finetune", "output"):
        if not getattr(o, name):
            raise UserError(f"--{name} is missing; see --help.")
    kinds = _listed("--kinds", o.kinds, KINDS)
    pool = tuple(place for place in o.pool if place)
    if IMAGE_TEXT_PAIR in kinds and not pool:
        raise UserError(
            f"--pool is missing: {IMAGE_TEXT_PAIR} anchors are retrieved from it; name the pool, "
            f"or build --kinds {TEXT_COMPENSATED} alone."
        )
    for name, given in (("pool", pool), ("pool_embeddings", o.pool_embeddings)):
        if IMAGE_TEXT_PAIR not in kinds and given:
            raise UserError(
                f"--{name} is given, but --kinds leaves {IMAGE_TEXT_PAIR} out; drop one."
            )
    if IMAGE_TEXT_PAIR not in kinds:
        selection.refuse_any(o)
        retrieval.refuse_any(o)
    at_least(o, 1, "shard_size", "decode_threads")
    at_least(o, 0, "model_threads")
    if not 0 <= o.max_bad_fraction <= 1:
        raise UserError(f"--max_bad_fraction is {o.max_bad_fraction}; it lies between 0 and 1.")
    stages = _listed("--stages", o.stages, STAGES)
    useful = {"assemble"}
    useful |= {"caption"} if TEXT_COMPENSATED in kinds else set()
    useful |= {"embed", "screen", "retrieve", "select"} if IMAGE_TEXT_PAIR in kinds else set()
    caption_scores = caption_options.resolve(o, kinds)
    useful |= {"embed", "select"} if caption_scores.scores else set()
    if not useful & set(stages):
        raise UserError(
            f"--stages {o.stages} does nothing for --kinds {o.kinds}; give one of "
            f"{', '.join(stage for stage in STAGES if stage in useful)}."
        )
    output = o.output.rstrip("/") or "/"
    work = (o.work or f"{output}.work").rstrip("/")
    if work == output:
        raise UserError("--work and --output are the same folder; give the stages their own.")
    for name, place in (("output", output), ("work", work)):
        if _lies_in(place, o.finetune):
            raise UserError(
                f"--{name} {place!r} lies in the folder of --finetune, and would be taken for a "
                f"class of it; give another."
            )
    return BuildConfig(
        finetune=o.finetune,
        pool=pool,
        output=output,
        work=work,
        name=o.name or places.parent_and_name(output)[1],
        stages=stages,
        kinds=kinds,
        classnames=o.classnames,
        captioning=captioning.resolve(o),
        caption_scores=caption_scores,
        embedding=embedding.resolve(o),
        screen=selection.resolve_screen(o),
        retrieval=retrieval.resolve(o),
        select=selection.resolve_select(o),
        machine=Machine(o.device, o.model_threads, o.decode_threads),
        shard_size=o.shard_size,
        max_bad_fraction=o.max_bad_fraction,
        force=o.force,
    )


def _lies_in(place: str, folder: str) -> bool:
    if places.is_local(place) and places.is_local(folder):
        place, folder = (str(Path(places.local_path(p)).absolute()) for p in (place, folder))
    return f"{place}/".startswith(folder.rstrip("/") + "/")
