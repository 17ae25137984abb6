"""The options of a build: one PipelineOptions subclass, checked and resolved to plain data."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions

from pipelines.captioner import Decoding
from pipelines.config import BuildConfig
from schemas.errors import UserError
from schemas.record import IMAGE_TEXT_PAIR, KINDS, TEXT_COMPENSATED
from shards import places

STAGES = ("caption", "embed", "retrieve", "assemble")


def _add(parser: argparse.ArgumentParser, name: str, **settings: Any) -> None:
    """Add an option under Beam's spelling (underscores) and the usual one (hyphens)."""
    names = [f"--{name}"] + ([f"--{name.replace('_', '-')}"] if "_" in name else [])
    parser.add_argument(*names, dest=name, **settings)


class AnchorOptions(PipelineOptions):  # type: ignore[misc]
    """What a build is made from and how; every other Beam option may stand beside these."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        _add(
            parser,
            "finetune",
            help="labelled images: an image folder, labelled webdataset tars "
            "(folder, brace range, glob, CLIP_benchmark root) or a CSV, TSV or parquet list",
        )
        _add(
            parser,
            "pool",
            help="image-text pairs as img2dataset writes them: folder, brace range or glob of tars",
        )
        _add(parser, "output", help="folder of the anchor set, local or remote")
        _add(
            parser,
            "work",
            help="folder for the stages' files, shared by the workers (default: OUTPUT.work)",
        )
        _add(parser, "name", help="name of the set (default: the last part of OUTPUT)")
        _add(
            parser,
            "stages",
            default=",".join(STAGES),
            help="comma-separated stages to run, on the files of those before (default: all)",
        )
        _add(
            parser,
            "kinds",
            default=",".join(KINDS),
            help="comma-separated kinds of anchors to build (default: both)",
        )
        _add(parser, "classnames", help="file of class names, if not beside the finetune images")
        _add(
            parser,
            "captioner",
            default="Salesforce/blip-image-captioning-base",
            help="BLIP captioner: Hub id or folder (default: %(default)s)",
        )
        _add(
            parser,
            "encoder",
            default="ViT-B-16/laion2b_s34b_b88k",
            help="CLIP whose image embeddings are compared: NAME/TAG, hf-hub:ORG/REPO or a folder "
            "(default: %(default)s)",
        )
        _add(
            parser,
            "k",
            type=int,
            default=10,
            help="neighbours retrieved per finetune image (default: %(default)s)",
        )
        _add(
            parser,
            "min_score",
            type=float,
            default=-1.0,
            help="least cosine similarity of an image-text pair (default: %(default)s, all)",
        )
        _add(
            parser,
            "decoding",
            choices=("greedy", "beam", "nucleus"),
            default="greedy",
            help="how captions are decoded (default: %(default)s)",
        )
        _add(parser, "num_beams", type=int, help="for --decoding beam (default: 3)")
        _add(parser, "top_p", type=float, help="for --decoding nucleus (default: 0.9)")
        _add(
            parser,
            "captions_per_image",
            type=int,
            default=1,
            help="captions generated per image; over 1 needs beam or nucleus (default: 1)",
        )
        _add(parser, "prompt", default="", help="text that each caption continues")
        _add(
            parser,
            "max_new_tokens",
            type=int,
            default=40,
            help="most tokens of a caption (default: %(default)s)",
        )
        _add(
            parser,
            "min_new_tokens",
            type=int,
            default=0,
            help="fewest tokens of a caption (default: %(default)s)",
        )
        _add(parser, "caption_seed", type=int, help="for --decoding nucleus (default: 0)")
        _add(
            parser,
            "caption_batch",
            type=int,
            default=32,
            help="images per forward pass of the captioner (default: %(default)s)",
        )
        _add(
            parser,
            "embed_batch",
            type=int,
            default=128,
            help="images per forward pass of the encoder (default: %(default)s)",
        )
        _add(parser, "device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
        _add(
            parser,
            "model_threads",
            type=int,
            default=0,
            help="torch threads per worker process (default: 0, the cores shared out between the "
            "direct runner's processes, else torch's own choice)",
        )
        _add(
            parser,
            "decode_threads",
            type=int,
            default=2,
            help="threads that decode images beside the model (default: %(default)s)",
        )
        _add(
            parser,
            "shard_size",
            type=int,
            default=10_000,
            help="anchors per shard (default: %(default)s)",
        )
        _add(
            parser,
            "max_bad_fraction",
            type=float,
            default=0.01,
            help="fail when more than this share of a stage's samples is bad "
            "(default: %(default)s)",
        )
        _add(
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
    config = _resolve(known)
    beam_options = list(argv)
    if not any(word.startswith("--default_sdk_harness_log_level") for word in beam_options):
        # Worker processes would log every step; what ends a job is raised here all the same.
        beam_options.append("--default_sdk_harness_log_level=CRITICAL")
    options = PipelineOptions(beam_options)
    if not config.model_threads:
        config = replace(config, model_threads=_threads_a_worker(options))
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
    if IMAGE_TEXT_PAIR in kinds and not o.pool:
        raise UserError(
            f"--pool is missing: {IMAGE_TEXT_PAIR} anchors are retrieved from it; name the pool, "
            f"or build --kinds {TEXT_COMPENSATED} alone."
        )
    if IMAGE_TEXT_PAIR not in kinds and o.pool:
        raise UserError(f"--pool is given, but --kinds leaves {IMAGE_TEXT_PAIR} out; drop one.")
    decoding = _decoding(o)
    at_least_one = (
        "k",
        "captions_per_image",
        "max_new_tokens",
        "caption_batch",
        "embed_batch",
        "shard_size",
        "decode_threads",
    )
    for name in at_least_one:
        if getattr(o, name) < 1:
            raise UserError(f"--{name} is {getattr(o, name)}; it must be at least 1.")
    for name in ("model_threads", "min_new_tokens"):
        if getattr(o, name) < 0:
            raise UserError(f"--{name} is {getattr(o, name)}; it must not be negative.")
    if not 0 <= o.max_bad_fraction <= 1:
        raise UserError(f"--max_bad_fraction is {o.max_bad_fraction}; it lies between 0 and 1.")
    if not -1 <= o.min_score <= 1:
        raise UserError(f"--min_score is {o.min_score}; a cosine lies between -1 and 1.")
    if o.min_new_tokens > o.max_new_tokens:
        raise UserError(f"--min_new_tokens {o.min_new_tokens} exceeds --max_new_tokens.")
    stages = _listed("--stages", o.stages, STAGES)
    useful = {"assemble"}
    useful |= {"caption"} if TEXT_COMPENSATED in kinds else set()
    useful |= {"embed", "retrieve"} if IMAGE_TEXT_PAIR in kinds else set()
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
        pool=o.pool,
        output=output,
        work=work,
        name=o.name or places.parent_and_name(output)[1],
        stages=stages,
        kinds=kinds,
        classnames=o.classnames,
        captioner=o.captioner,
        encoder=o.encoder,
        k=o.k,
        min_score=o.min_score,
        decoding=decoding,
        caption_batch=o.caption_batch,
        embed_batch=o.embed_batch,
        device=o.device,
        model_threads=o.model_threads,
        decode_threads=o.decode_threads,
        shard_size=o.shard_size,
        max_bad_fraction=o.max_bad_fraction,
        force=o.force,
    )


def _lies_in(place: str, folder: str) -> bool:
    if places.is_local(place) and places.is_local(folder):
        place, folder = (str(Path(places.local_path(p)).absolute()) for p in (place, folder))
    return f"{place}/".startswith(folder.rstrip("/") + "/")


def _decoding(o: argparse.Namespace) -> Decoding:
    """How captions are decoded; an option of another mode is refused, not ignored."""
    for name, mode in (("num_beams", "beam"), ("top_p", "nucleus"), ("caption_seed", "nucleus")):
        if getattr(o, name) is not None and o.decoding != mode:
            raise UserError(f"--{name} is for --decoding {mode}, which is {o.decoding}; drop one.")
    num_beams = 3 if o.num_beams is None else o.num_beams
    top_p = 0.9 if o.top_p is None else o.top_p
    if num_beams < 1:
        raise UserError(f"--num_beams is {num_beams}; it must be at least 1.")
    if not 0 < top_p <= 1:
        raise UserError(f"--top_p is {top_p}; it must be over 0 and at most 1.")
    if o.captions_per_image > 1 and o.decoding == "greedy":
        raise UserError(
            "--captions_per_image over 1 needs --decoding beam or nucleus: greedy "
            "decoding gives one caption."
        )
    if o.decoding == "beam" and o.captions_per_image > num_beams:
        raise UserError(f"--captions_per_image {o.captions_per_image} exceeds --num_beams.")
    return Decoding(
        mode=o.decoding,
        num_beams=num_beams if o.decoding == "beam" else 1,
        top_p=top_p if o.decoding == "nucleus" else 1.0,
        prompt=o.prompt,
        captions_per_image=o.captions_per_image,
        max_new_tokens=o.max_new_tokens,
        min_new_tokens=o.min_new_tokens,
        seed=o.caption_seed or 0,
    )
