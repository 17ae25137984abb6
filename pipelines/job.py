"""A build from its checked options to what it prints: the sources, the output, the pipeline."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence

from apache_beam.metrics.metric import MetricsFilter
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.runners.runner import PipelineResult

from models.clip import resolve
from pipelines.build import run
from pipelines.captioning import caption
from pipelines.captioning.captioner import check_captioner
from pipelines.config import BuildConfig
from pipelines.embedding import embed
from pipelines.embedding.adopt import DECLARED
from pipelines.embedding.metadata import LOCATE
from pipelines.inference import choose_device
from pipelines.retrieval import retrieve
from pipelines.retrieval.plan import HITS_STAGE
from pipelines.retrieval.tuning import FILLED, TRAINED, TRIED, TUNED
from pipelines.selection import captions, judge, screen, select
from pipelines.selection.evaluation import stage_name
from pipelines.watching import worker_deaths, worker_output
from pipelines.watching.ending import reported
from pipelines.watching.interrupt import Interrupts
from pipelines.watching.progress import ASSEMBLE, Progress
from pipelines.watching.report import PAGE_NAME
from pipelines.watching.sentences import user_sentence
from pipelines.watching.worker_deaths import WorkerDeaths, worker_died
from schemas.errors import UserError
from schemas.manifest import MANIFEST_NAME
from schemas.record import IMAGE_TEXT_PAIR, TEXT_COMPENSATED
from shards import places
from shards.reader import AnchorSet
from shards.sources import Source, open_embeddings, open_labelled, open_pool
from shards.sources.evaluation import open_evaluation

_NOTE = "build.json"


def run_job(config: BuildConfig, options: PipelineOptions) -> None:
    """Build, and print what came of it.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
        UserError: what has to be mended, a worker process died, or a job service's time was up.
    """
    result = _build_quietly(config, options)
    print_counts(result)
    if "assemble" in config.stages:
        manifest = AnchorSet.open(config.output).manifest
        print(f"{config.output}: {manifest.samples:,} anchors in {len(manifest.shards)} shards")
        print(f"digest {manifest.digest}")
    print(f"report {places.join(config.work, PAGE_NAME)}")


def _build_quietly(config: BuildConfig, options: PipelineOptions) -> PipelineResult:
    """Build; what worker processes print is shown only if the fault is ours, not the user's.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, whatever error came of it.
        UserError: what has to be mended, a worker process died, or a job service's time was up.
    """
    workers = options.view_as(DirectOptions).direct_running_mode == "multi_processing"
    aside = worker_output.set_aside() if workers else contextlib.nullcontext()
    with Interrupts() as interrupts, aside as log, WorkerDeaths() as deaths:
        try:
            return build(config, options, deaths)
        except Exception as error:
            if interrupts.seen:
                raise KeyboardInterrupt from None
            if user_sentence(error) is None and (deaths.seen or worker_died(error)):
                raise UserError(worker_deaths.SENTENCE) from error
            if log is not None and user_sentence(error) is None:
                log.seek(0)
                print(log.read().decode(errors="replace"), file=sys.stderr)
            raise


def build(config: BuildConfig, options: PipelineOptions, deaths: WorkerDeaths) -> PipelineResult:
    """Check the sources, the models and the output, then run the pipeline.

    Raises:
        UserError: something is missing, unknown or in the way.
    """
    finetune = open_labelled(config.finetune, config.classnames)
    pool = existing = None
    if IMAGE_TEXT_PAIR in config.kinds:
        pool = open_pool(*config.pool)
        if config.embedding.existing:
            existing = open_embeddings(config.embedding.existing)
            print(DECLARED.format(config.embedding.encoder), file=sys.stderr)
    if config.embeds_finetune and "embed" in config.stages:
        resolve(config.embedding.encoder)
    if TEXT_COMPENSATED in config.kinds and "caption" in config.stages:
        check_captioner(config.captioning.captioner, config.captioning.decoding, finetune.classes)
    evaluation = [open_evaluation(place) for place in config.select.evaluation]
    choose_device(config.machine.device, config.embedding.precision)
    complete = claim_output(config, config.build_id(finetune, pool, existing, *evaluation))
    progress = Progress(config.work, _units(config, finetune, existing or pool, evaluation))
    with reported(config, progress, deaths), progress:
        return run(config, options, finetune, pool, existing, evaluation, complete=complete)


def _units(
    config: BuildConfig, finetune: Source, pool: Source | None, evaluation: Sequence[Source]
) -> dict[str, int | None]:
    """Stages that run, with the number of parts of each; None where that shows only later."""
    units: dict[str, int | None] = {}
    if TEXT_COMPENSATED in config.kinds and "caption" in config.stages:
        units[caption.STAGE] = len(finetune.units)
    if config.embeds_finetune and "embed" in config.stages:
        units[embed.FINETUNE] = len(finetune.units)
    if pool is not None and "embed" in config.stages:
        units[embed.POOL] = len(pool.units)
        for number, source in enumerate(evaluation):
            units[stage_name(number)] = len(source.units)
    if pool is not None and "screen" in config.stages:
        units[screen.STAGE] = len(pool.units)
    if pool is not None and "retrieve" in config.stages:
        # How the search is cut into tasks, and whether there is an index, is planned later.
        units |= dict.fromkeys((TRAINED, FILLED, TRIED, HITS_STAGE, TUNED), None)
        units[retrieve.STAGE] = len(finetune.units)
    if config.caption_scores.scores and "select" in config.stages:
        units[captions.SCORES] = len(finetune.units)
        units[captions.STAGE] = len(finetune.units)
    if pool is not None and "select" in config.stages:
        if config.embedding.existing:
            units[LOCATE] = len(pool.units)
        units[judge.STAGE] = len(pool.units)
        units[select.STAGE] = len(pool.units)
    if ASSEMBLE in config.stages:
        units[ASSEMBLE] = None
    return units


def claim_output(config: BuildConfig, build_id: str) -> bool:
    """Make sure that the output is ours to write; True if it already is this build's set.

    The work folder remembers which build it belongs to: the same one may go on, another may
    not touch the output without --force.

    Raises:
        UserError: the output holds another set, another build's shards or something else.
    """
    note = places.join(config.work, _NOTE)
    wanted = json.dumps({"build": build_id}).encode()
    ours = places.exists(note) and places.read_bytes(note) == wanted
    manifest = places.join(config.output, MANIFEST_NAME)
    complete = places.exists(manifest)
    if "assemble" in config.stages and not config.force and not ours:
        if complete:
            raise UserError(
                f"{config.output!r} already holds an anchor set, and {config.work!r} does not say "
                f"that this build made it; give another --output, or --force to replace it."
            )
        if places.exists(config.output) and any(map(len, places.list_folder(config.output))):
            raise UserError(
                f"{config.output!r} is not empty and does not belong to this build; give another "
                f"--output, or --force to write into it."
            )
    places.write_bytes(note, wanted)
    return complete


def print_counts(result: PipelineResult) -> None:
    """What each stage read, kept and dropped, from Beam's counters."""
    counters: dict[str, dict[str, int]] = {}
    for counter in result.metrics().query(MetricsFilter())["counters"]:
        metric = counter.key.metric
        if metric.name.startswith("dropped/") or metric.name in ("read", "kept"):
            counters.setdefault(metric.namespace, {})[metric.name] = counter.result
    for stage, values in sorted(counters.items()):
        dropped = ", ".join(
            f"{name.removeprefix('dropped/')} {number:,}"
            for name, number in sorted(values.items())
            if name.startswith("dropped/")
        )
        print(
            f"{stage}: read {values.get('read', 0):,}, kept {values.get('kept', 0):,}"
            + (f", dropped {dropped}" if dropped else "")
        )
