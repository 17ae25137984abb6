"""The composition: which stage feeds which. One pipeline, six stages, any of them alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions
from apache_beam.runners.runner import PipelineResult

from pipelines.assembling import assemble
from pipelines.assembling.finish import finish
from pipelines.captioning import caption
from pipelines.config import BuildConfig
from pipelines.embedding import adopt, embed, locate
from pipelines.embedding.metadata import LOCATE
from pipelines.parts import Part, left_parts, read_listed, required_part, write_listed
from pipelines.reading import check_ceiling, in_order
from pipelines.retrieval import retrieve
from pipelines.selection import screen, select
from pipelines.selection.captions import STAGE as SELECT_CAPTIONS
from pipelines.selection.captions import SelectCaptions, caption_select_options
from pipelines.selection.evaluation import EmbedEvaluation, evaluation_options, stage_name
from pipelines.units import ReadUnits, unit_names, write_units
from pipelines.watching.worker_deaths import unheard
from schemas.errors import UserError
from schemas.record import IMAGE_TEXT_PAIR, TEXT_COMPENSATED, Kind
from shards.sources import Source

Parts: TypeAlias = "beam.PCollection[list[Part]]"
_ROLES = {embed.FINETUNE: "finetune", embed.POOL: "pool"}


class Composition:
    """Builds the graph for a config; each stage's output is the next one's input.

    A stage that was not asked for is stood in for by the files that it left earlier.

    Args:
        root: the pipeline.
        config: the options.
        finetune: the labelled source.
        pool: the source of pairs, where that kind is built.
        existing: embeddings of the pool that exist already; its rows are then theirs, and
            ``pool`` is where their images are looked for.
        evaluation: images that no anchor may be a copy of.
        complete: the output already holds a finished set of this very build.
    """

    def __init__(
        self,
        root: beam.Pipeline,
        config: BuildConfig,
        finetune: Source,
        pool: Source | None,
        existing: Source | None = None,
        evaluation: Sequence[Source] = (),
        *,
        complete: bool,
    ) -> None:
        self._root = root
        self._config = config
        self._finetune = finetune
        self._pool = pool
        self._existing = existing
        self._evaluation = evaluation
        self._complete = complete
        self._units = {
            role: write_units(config.work, role, source)
            for role, source in (
                ("finetune", finetune),
                ("pool", existing or pool),
                ("images", pool if existing else None),
            )
            if source is not None
        } | {
            stage_name(number): write_units(config.work, f"evaluation-{number:05d}", source)
            for number, source in enumerate(self._evaluation)
        }

    def expand(self) -> None:
        """Add the stages that were asked for."""
        captions = chosen_captions = pairs = queries = pool = screened = located = None
        copied: list[Parts] = []
        if TEXT_COMPENSATED in self._config.kinds:
            captions = self._caption()
        if self._config.embeds_finetune:
            queries = self._embed(embed.FINETUNE, self._finetune)
        if self._config.caption_scores.scores:
            chosen_captions = self._select_captions(captions, queries)
        if IMAGE_TEXT_PAIR in self._config.kinds:
            pool = self._embed(embed.POOL, self._pool)
            screened = self._screen(pool)
            neighbours = self._retrieve(queries, pool, screened)
            chosen = pool
            if self._existing:
                located = self._locate(neighbours, pool)
                chosen = self._after(located)
            copied = self._embed_evaluation()
            pairs = self._select(neighbours, chosen, queries, copied)
        if "assemble" in self._config.stages:
            every = (captions, chosen_captions, queries, pool, screened, located, *copied)
            stages = [parts for parts in every if parts is not None]
            self._assemble(chosen_captions or captions, pairs, stages)

    def _needed(self, *later: str) -> bool:
        return any(stage in self._config.stages for stage in later)

    def _caption(self) -> Parts | None:
        if "caption" not in self._config.stages:
            scored = self._config.caption_scores.scores
            if not self._needed("assemble", *(["select"] if scored else [])):
                return None
            options = caption.caption_options(self._config.captioning, self._finetune.classes)
            return self._left_by(caption.STAGE, "finetune", options)
        step = caption.Caption(
            work=self._config.work,
            classes=self._finetune.classes,
            config=self._config.captioning,
            machine=self._config.machine,
            force=self._config.force,
        )
        units = self._root | "FinetuneToCaption" >> ReadUnits(self._units["finetune"])
        return self._listed("captions", units | "Caption" >> step)

    def _select_captions(self, captions: Parts | None, queries: Parts | None) -> Parts | None:
        """The captions that stay, by how well they fit their images; part of select."""
        config = self._config.caption_scores
        if "select" not in self._config.stages:
            if not self._needed("assemble"):
                return None
            options = caption_select_options(config)
            return self._left_by(SELECT_CAPTIONS, "finetune", options, ceiling=False)
        step = SelectCaptions(
            work=self._config.work,
            config=config,
            embedding=self._config.embedding,
            machine=self._config.machine,
            force=self._config.force,
        )
        inputs = (_each("scored-captions", captions), _each("captioned-images", queries))
        return self._listed(SELECT_CAPTIONS, inputs | "SelectCaptions" >> step, ceiling=False)

    def _embed(self, stage: str, source: Source | None) -> Parts | None:
        assert source is not None
        if "embed" not in self._config.stages:
            if not self._needed("screen", "retrieve", "select", "assemble"):
                return None
            options = embed.embed_options(self._config.embedding, source.classes)
            if stage == embed.POOL and self._existing:
                options = adopt.adopt_options()
            return self._left_by(stage, _ROLES[stage], options)
        step: beam.PTransform = embed.Embed(
            stage,
            work=self._config.work,
            classes=source.classes or None,
            config=self._config.embedding,
            machine=self._config.machine,
            force=self._config.force,
        )
        if stage == embed.POOL and self._existing:
            step = adopt.Adopt(
                work=self._config.work,
                config=self._config.embedding,
                machine=self._config.machine,
                force=self._config.force,
            )
        units = self._root | f"{stage}-units" >> ReadUnits(self._units[_ROLES[stage]])
        return self._listed(stage, units | stage >> step)

    def _embed_evaluation(self) -> list[Parts]:
        """Images that no anchor may be a copy of, one list of parts for each place."""
        made: list[Parts] = []
        for number, _ in enumerate(self._evaluation):
            stage = stage_name(number)
            if "embed" not in self._config.stages:
                if self._needed("select", "assemble"):
                    options = evaluation_options(self._config.embedding)
                    made.append(self._left_by(stage, stage, options))
                continue
            step = EmbedEvaluation(
                number,
                work=self._config.work,
                config=self._config.embedding,
                machine=self._config.machine,
                force=self._config.force,
            )
            units = self._root | f"{stage}-units" >> ReadUnits(self._units[stage])
            made.append(self._listed(stage, units | stage >> step))
        return made

    def _screen(self, pool: Parts | None) -> Parts | None:
        if "screen" not in self._config.stages:
            if not self._needed("retrieve", "select", "assemble"):
                return None
            return self._left_by(screen.STAGE, "pool", screen.screen_options(self._config.screen))
        step = screen.Screen(
            work=self._config.work, config=self._config.screen, force=self._config.force
        )
        return self._listed(screen.STAGE, _each("screen", pool) | "Screen" >> step, ceiling=False)

    def _retrieve(
        self, queries: Parts | None, pool: Parts | None, screened: Parts | None
    ) -> Parts | None:
        if "retrieve" not in self._config.stages:
            if not self._needed("select"):
                return None
            return self._left_by(
                retrieve.STAGE,
                "finetune",
                retrieve.retrieve_options(self._config.retrieval, self._config.screen),
            )
        step = retrieve.Retrieve(
            work=self._config.work,
            config=self._config.retrieval,
            screen=self._config.screen,
            force=self._config.force,
            threads=self._config.machine.model_threads,
        )
        assert queries is not None
        assert pool is not None
        assert screened is not None
        return self._listed(retrieve.STAGE, (queries, pool, screened) | "Retrieve" >> step)

    def _locate(self, neighbours: Parts | None, pool: Parts | None) -> Parts | None:
        """Where the retrieved images of embeddings that existed already lie; part of select."""
        if "select" not in self._config.stages:
            if not self._needed("assemble"):
                return None
            return self._left_by(LOCATE, "pool", {}, ceiling=False)
        step = locate.Locate(
            work=self._config.work,
            images=self._units["images"],
            config=self._config.embedding,
            machine=self._config.machine,
            force=self._config.force,
        )
        inputs = (_each("located-neighbours", neighbours), _each("located-pool", pool))
        return self._listed(LOCATE, inputs | "Locate" >> step, ceiling=False)

    def _after(self, located: Parts | None) -> Parts | None:
        """The pool's parts as they are after locate.

        They come from the parts of locate, and not from the pool with those as a side input: such
        a step would be fused with what the side input waits for, and wait for ever.
        """
        if located is None:
            return None
        return located | "PoolOfLocated" >> beam.Map(_pool_of, self._config.work)

    def _select(
        self,
        neighbours: Parts | None,
        pool: Parts | None,
        queries: Parts | None,
        evaluation: list[Parts],
    ) -> Parts | None:
        options = select.select_options(
            self._config.retrieval, self._config.screen, self._config.select
        )
        if "select" not in self._config.stages:
            if not self._needed("assemble"):
                return None
            return self._left_by(select.STAGE, "pool", options, ceiling=False)
        assert self._pool is not None
        step = select.Select(
            work=self._config.work,
            root=self._pool.units[0].root,
            config=self._config.select,
            options=options,
            embedding=self._config.embedding,
            machine=self._config.machine,
            force=self._config.force,
        )
        inputs = (
            _each("neighbours", neighbours),
            _each("select", pool),
            _each("select-finetune", queries),
            self._joined("evaluation", evaluation),
        )
        return self._listed(select.STAGE, inputs | "Select" >> step, ceiling=False)

    def _left_by(
        self, stage: str, role: str, options: dict[str, Any], *, ceiling: bool = True
    ) -> Parts:
        work = self._config.work
        parts = left_parts(work, stage, unit_names(self._units[role]), options)
        if ceiling:
            check_ceiling(parts, self._config.max_bad_fraction)
        listed = write_listed(work, stage, parts)
        return (
            self._root
            | f"{stage}-left-list" >> beam.Create([listed])
            | f"{stage}-left" >> beam.Map(read_listed)
        )

    def _listed(self, name: str, parts: beam.PCollection[Part], *, ceiling: bool = True) -> Parts:
        """All parts of a stage as one list, in order: the barrier after which its ceiling is known.

        What screen and select drop, they drop because they were asked to; no ceiling holds there.
        """
        listed = parts | f"{name}-list" >> beam.combiners.ToList()
        if not ceiling:
            return listed | f"{name}-sort" >> beam.Map(in_order)
        return listed | f"{name}-ceiling" >> beam.Map(check_ceiling, self._config.max_bad_fraction)

    def _joined(self, name: str, lists: list[Parts]) -> Parts:
        """Several lists of parts as one, by stage and number."""
        if not lists:
            return self._root | f"{name}-none" >> beam.Create([[]])
        return (
            tuple(lists)
            | f"{name}-flatten" >> beam.Flatten()
            | f"{name}-lists" >> beam.combiners.ToList()
            | f"{name}-join" >> beam.Map(_all_parts)
        )

    def _planned(self, kind: Kind, parts: Parts) -> beam.PCollection[assemble.ShardPlan]:
        size = self._config.shard_size
        return parts | f"{kind}-plan" >> beam.FlatMap(
            lambda listed: assemble.plan_shards(kind, listed, size)
        )

    def _assemble(self, captions: Parts | None, pairs: Parts | None, stages: list[Parts]) -> None:
        plans: list[beam.PCollection[assemble.ShardPlan]] = []
        candidates: list[Parts] = []
        roots: dict[str, str] = {}
        if captions is not None:
            step = assemble.TextCompensated(work=self._config.work, force=self._config.force)
            made = _each("captions", captions) | TEXT_COMPENSATED >> step
            candidates.append(self._listed(TEXT_COMPENSATED, made, ceiling=False))
            plans.append(self._planned(TEXT_COMPENSATED, candidates[-1]))
            roots[TEXT_COMPENSATED] = self._finetune.units[0].root
        if pairs is not None:
            assert self._pool is not None
            candidates.append(pairs)
            plans.append(self._planned(IMAGE_TEXT_PAIR, pairs))
            roots[IMAGE_TEXT_PAIR] = self._pool.units[0].root
        shards = (
            tuple(plans)
            | "Plans" >> beam.Flatten()
            | "WriteShards"
            >> assemble.WriteShards(
                work=self._config.work,
                output=self._config.output,
                roots=roots,
                complete=self._complete,
                force=self._config.force,
            )
        )
        everything = tuple(stages + candidates) | "Stages" >> beam.Flatten()
        (
            self._root
            | "Once" >> beam.Create([None])
            | "Finish"
            >> beam.Map(
                finish,
                beam.pvalue.AsList(shards),
                beam.pvalue.AsList(everything),
                self._config,
                self._finetune.classes,
            )
        )


def _each(name: str, parts: Parts | None) -> beam.PCollection[Part]:
    """The parts of a list, one by one."""
    assert parts is not None
    return parts | f"{name}-each" >> beam.FlatMap(lambda listed: listed)


def _all_parts(lists: list[list[Part]]) -> list[Part]:
    parts = [part for listed in lists for part in listed]
    return sorted(parts, key=lambda part: (part.stage, part.number))


def _pool_of(located: list[Part], work: str) -> list[Part]:
    """The pool's parts, once their images have been located."""
    return [required_part(work, embed.POOL, part.number) for part in located]


def run(
    config: BuildConfig,
    options: PipelineOptions,
    finetune: Source,
    pool: Source | None,
    existing: Source | None = None,
    evaluation: Sequence[Source] = (),
    *,
    complete: bool,
) -> PipelineResult:
    """Build the pipeline and run it to its end.

    Raises:
        Exception: whatever ended the job, UserError among them (see pipelines.job).
    """
    pipeline = beam.Pipeline(options=options)
    Composition(pipeline, config, finetune, pool, existing, evaluation, complete=complete).expand()
    try:
        result = pipeline.run()
        result.wait_until_finish()
    except Exception as error:
        if sentence := unheard(error, options.view_as(PortableOptions)):
            raise UserError(sentence) from error
        raise
    return result
