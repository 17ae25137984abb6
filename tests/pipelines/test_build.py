"""The whole build: the same set on every way to it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from tiny_builds import Built, arguments, build, contents, ended, start, without_progress
from tiny_data import CLASSES, image_folder, jpeg, labelled_tars, pair, photographs, write_tar

from pipelines.options import parse
from schemas.record import IMAGE_TEXT_PAIR, TEXT_COMPENSATED
from shards.reader import AnchorSet
from shards.sources import raise_bad

Run = Callable[..., Built]
Reference = tuple[Path, Built]


def parts_in(folder: Path) -> list[Path]:
    """What stages have left, without the lists of units that are there from the start."""
    return [path for path in folder.rglob("*.parquet") if "units" not in path.parts]


def test_a_build_is_a_set(reference: Reference, finetune: Path, pairs: Path) -> None:
    output, built = reference
    assert sorted(p.name for p in output.iterdir()) == [
        *["README.md", "anchor_set.json", "croissant.json", "gallery.html"],
        *["image-text-pair", "text-compensated"],
    ]
    anchors = AnchorSet.open(str(output))
    manifest = anchors.manifest
    assert manifest.classes == sorted(CLASSES)
    assert f"digest {manifest.digest}" in built.out
    own = list(anchors.samples(raise_bad, TEXT_COMPENSATED))
    assert [r.source for r, _ in own] == [f"{c}/{n}.jpg" for c in sorted(CLASSES) for n in range(4)]
    for record, image in own:
        assert image == (finetune / record.source).read_bytes()
        assert record.class_name == record.source.split("/")[0]
        assert record.text == " ".join(record.text.split()) != ""
    found = list(anchors.samples(raise_bad, IMAGE_TEXT_PAIR))
    assert len({record.key for record, _ in own + found}) == manifest.samples
    assert {r.source for r, _ in found} <= {p.name for p in pairs.glob("*.tar")}
    for record, image in found:
        i = int(re.findall(r"\d+", record.text)[0])
        assert image == jpeg(1000 + i)
        assert record.url == f"https://example.org/{i}.jpg"
        assert record.score is not None
        assert -1 <= record.score <= 1.001
        assert record.query_classes == sorted(set(record.query_classes))
    samples = list(
        webdataset.WebDataset(str(output / found[0][0].kind / "00000.tar"), shardshuffle=False)
    )
    assert [sample["txt"].decode() for sample in samples] == [r.text for r, _ in found]


def test_the_manifest_names_no_place_and_no_time(
    reference: Reference, finetune: Path, pairs: Path
) -> None:
    text = (reference[0] / "anchor_set.json").read_text()
    for path in (finetune, pairs, reference[0]):
        assert str(path) not in text
    made = json.loads(text)["provenance"]
    assert (made["encoder"]["name"], made["captioner"]["name"]) == ("clip", "blip")
    assert [i["name"] for i in made["inputs"]] == [
        *["images-00000", "00000.tar", "00001.tar", "00002.tar"]
    ]
    assert made["counts"]["caption"] == {"read": 12, "kept": 12, "dropped": {}}
    assert made["config"]["k"] == 3


def test_twice_is_the_same_to_the_byte(reference: Reference, run: Run, tmp_path: Path) -> None:
    assert run().code == 0
    assert contents(tmp_path / "set") == contents(reference[0])


def test_worker_processes_give_the_same(
    reference: Reference, finetune: Path, pairs: Path, tmp_path: Path
) -> None:
    workers = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    built = ended(start(finetune, pairs, tmp_path / "set", *workers))
    assert built.code == 0, built.err
    assert contents(tmp_path / "set") == contents(reference[0])
    # The counters of both workers are added, and what workers log stays out of the way.
    assert built.out.splitlines()[:-3] == reference[1].out.splitlines()[:-3]
    assert "caption 1/1 parts, 12 read" in built.err
    assert not without_progress(built.err)


def test_counters_and_progress_are_printed(reference: Reference) -> None:
    out, err = reference[1].out, reference[1].err
    for line in ("caption: read 12, kept 12", "embed-pool: read 24, kept 24"):
        assert line in out.splitlines()
    assert re.search(r"embed-pool 3/3 parts, 24 read, [\d.,]+/s", err)


def test_stages_one_by_one_give_the_same(reference: Reference, run: Run, tmp_path: Path) -> None:
    for stage in ("embed", "caption", "screen", "retrieve", "select", "assemble"):
        assert not (tmp_path / "set").exists()
        built = run("--stages", stage)
        assert built.code == 0, built.err
    assert contents(tmp_path / "set") == contents(reference[0])


def test_a_build_goes_on_from_what_is_left(reference: Reference, run: Run, tmp_path: Path) -> None:
    assert run("--shard_size", "5").code == 0
    whole = contents(tmp_path / "set")
    work = tmp_path / "set.work"
    parts = sorted(p for p in work.rglob("*") if p.is_file() and p.name != "build.json")
    assert len(parts) > 15
    for step in (2, 3):
        for part in filter(Path.exists, parts[::step]):  # timings of whole parts stay away
            _ = part.unlink() if step == 2 else part.write_bytes(part.read_bytes()[:-7])
        (tmp_path / "set" / "anchor_set.json").unlink()
        (tmp_path / "set" / "text-compensated" / "00001.tar").unlink()
        (tmp_path / "set" / "image-text-pair" / "00000.parquet").write_bytes(b"half")
        assert run("--shard_size", "5").code == 0
        assert contents(tmp_path / "set") == whole


def test_a_damaged_set_is_mended(reference: Reference, run: Run, tmp_path: Path) -> None:
    assert run().code == 0
    (tmp_path / "set" / "text-compensated" / "00000.tar").unlink()
    assert run().code == 0
    assert contents(tmp_path / "set") == contents(reference[0])


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_build_that_was_stopped_goes_on(
    reference: Reference, run: Run, tmp_path: Path, finetune: Path, pairs: Path, how: signal.Signals
) -> None:
    for _ in range(10):  # a busy machine may let the build end before the signal comes
        process = start(finetune, pairs, tmp_path / "set")
        while process.poll() is None and not parts_in(tmp_path):
            time.sleep(0.02)
        process.send_signal(how)
        stopped = ended(process)
        if stopped.code:
            break
        shutil.rmtree(tmp_path / "set")
        shutil.rmtree(tmp_path / "set.work")
    assert stopped.code in (-9, 130), stopped
    assert "Traceback" not in stopped.err
    if how == signal.SIGINT:
        assert "the same command goes on from here" in stopped.err
    assert not (tmp_path / "set" / "anchor_set.json").exists()
    assert run().code == 0
    assert contents(tmp_path / "set") == contents(reference[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_in_the_middle_of_a_stage(tmp_path: Path, workers: int) -> None:
    """Beam runs a stage in our thread and wraps the interrupt; workers get the signal too."""
    finetune = image_folder(tmp_path / "ft", per_class=330)
    mode = ("--direct_running_mode=multi_processing", f"--direct_num_workers={workers}")
    long = ("--min_new_tokens", "28", "--max_new_tokens", "28", "--caption_batch", "1")
    options = ("--kinds", TEXT_COMPENSATED, *long)
    process = start(finetune, None, tmp_path / "set", *options, *(mode if workers else ()))
    while process.poll() is None and not (tmp_path / "set.work" / "build.json").exists():
        time.sleep(0.02)
    time.sleep(6 if workers else 2)  # worker processes take a while to start
    assert not parts_in(tmp_path), "the stage was over too early for this test"
    os.killpg(process.pid, signal.SIGINT)
    stopped = ended(process)
    assert stopped.code == 130, stopped
    assert stopped.err.splitlines()[-1] == (
        "anchorft-build: stopped; the same command goes on from here."
    )
    assert "Traceback" not in stopped.err, stopped.err
    assert not (tmp_path / "set").exists()


def test_embeddings_are_laid_out_as_clip_retrieval_does(reference: Reference) -> None:
    work = reference[0].with_name("set.work") / "embeddings" / "pool"
    matrix = np.load(work / "img_emb" / "img_emb_00001.npy", allow_pickle=False)
    table = pq.read_table(work / "metadata" / "metadata_00001.parquet")
    assert matrix.dtype == np.float16
    assert np.allclose(np.linalg.norm(matrix.astype(np.float32), axis=1), 1, atol=2e-3)
    assert len(matrix) == table.num_rows == 8
    assert {"image_path", "caption"} <= set(table.column_names)


def test_the_nearest_are_the_nearest(reference: Reference) -> None:
    work = reference[0].with_name("set.work")

    def rows(name: str, part: int) -> np.ndarray:
        place = work / "embeddings" / name / "img_emb" / f"img_emb_{part:05d}.npy"
        return np.load(place, allow_pickle=False).astype(np.float64)

    everything = np.concatenate([rows("pool", part) for part in range(3)])
    scores = (rows("finetune", 0) @ everything.T).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :3]
    table = pq.read_table(work / "retrieve" / "00000.parquet").to_pydict()
    found = np.array(table["pool_part"]) * 8 + np.array(table["pool_row"])
    assert found.reshape(12, 3).tolist() == order.tolist()
    assert table["rank"] == [0, 1, 2] * 12
    assert np.array_equal(
        np.array(table["score"], np.float32).reshape(12, 3), np.take_along_axis(scores, order, 1)
    )


@pytest.mark.parametrize("kind", [TEXT_COMPENSATED, IMAGE_TEXT_PAIR])
def test_one_kind_alone(
    reference: Reference, tmp_path: Path, finetune: Path, pairs: Path, kind: str
) -> None:
    source = pairs if kind == IMAGE_TEXT_PAIR else None
    assert build(finetune, source, tmp_path / "set", "--kinds", kind).code == 0
    whole = AnchorSet.open(str(reference[0])).shards(kind)  # type: ignore[arg-type]
    alone = AnchorSet.open(str(tmp_path / "set"))
    assert alone.shards() == whole
    assert alone.manifest.kinds == [kind]


def test_several_captions_and_a_prompt(run: Run, tmp_path: Path) -> None:
    decoding = ["--decoding", "nucleus", "--captions-per-image", "3", "--prompt", "a"]
    assert run(*decoding, "--kinds", TEXT_COMPENSATED, "--pool", "").code == 0
    samples = list(AnchorSet.open(str(tmp_path / "set")).samples(raise_bad))
    assert all(record.text.startswith("a") for record, _ in samples)
    assert any(len(record.texts) > 1 and record.texts[0] == record.text for record, _ in samples)
    again = tmp_path / "again"
    assert run(*decoding, "--kinds", TEXT_COMPENSATED, "--pool", "", output=again).code == 0
    assert contents(again) == contents(tmp_path / "set")


def test_the_longest_captions_that_are_allowed_can_be_written(run: Run) -> None:
    longest = ("--min_new_tokens", "30", "--max_new_tokens", "30", "--prompt", "a")
    built = run("--kinds", TEXT_COMPENSATED, "--pool", "", *longest)
    assert built.code == 0, built.err


def test_a_least_score_is_counted(reference: Reference, run: Run, tmp_path: Path) -> None:
    records = AnchorSet.open(str(reference[0])).samples(raise_bad, IMAGE_TEXT_PAIR)
    scores = sorted(record.score or 0 for record, _ in records)
    built = run("--min_score", str(scores[-4] - 1e-6))
    assert built.code == 0
    assert f"dropped low_score {len(scores) - 4}" in built.out
    left = list(AnchorSet.open(str(tmp_path / "set")).samples(raise_bad, IMAGE_TEXT_PAIR))
    assert sorted(record.score or 0 for record, _ in left) == scores[-4:]


def test_clip_benchmark_tars_as_finetune_data(tmp_path: Path, pairs: Path) -> None:
    root = labelled_tars(tmp_path / "cb")
    assert build(root, pairs, tmp_path / "set").code == 0
    samples = list(AnchorSet.open(str(tmp_path / "set")).samples(raise_bad, TEXT_COMPENSATED))
    assert [image for _, image in samples] == [jpeg(i) for i in range(12)]
    assert [record.class_name for record, _ in samples] == [CLASSES[i % 3] for i in range(12)]
    assert samples[7][0].source == "1.tar"


def test_photographs_as_people_have_them(tmp_path: Path, pairs: Path) -> None:
    bad = photographs(tmp_path / "photos")
    built = build(tmp_path / "photos", pairs, tmp_path / "set")
    assert built.code == 2
    for words in ("2 of 9 samples are bad", "not_an_image 1, truncated_image 1", "images-00000"):
        assert words in built.sentence
    assert "--max_bad_fraction" in built.sentence
    assert not (tmp_path / "set").exists()
    built = build(tmp_path / "photos", pairs, tmp_path / "set", "--max_bad_fraction", "0.3")
    assert built.code == 0, built.err
    anchors = AnchorSet.open(str(tmp_path / "set"))
    counts = anchors.manifest.provenance.counts["caption"]
    assert (counts.read, counts.kept, counts.dropped) == (9, 7, bad)
    assert "caption: read 9, kept 7, dropped not_an_image 1, truncated_image 1" in built.out
    sources = {record.source for record, _ in anchors.samples(raise_bad, TEXT_COMPENSATED)}
    assert "Golden Retriever/print #1 (ü).jpg" in sources
    assert anchors.manifest.classes == ["Golden Retriever", "tabby cat"]


def test_duplicates_and_odd_texts_of_a_pool(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "ft", per_class=1)
    (root / "circle" / "copy.jpg").write_bytes((root / "bar" / "0.jpg").read_bytes())
    one = [*pair("same", jpeg(50), "line\nbreak\0 and 😀"), *pair("blank", jpeg(51), " \n")]
    two = [*pair("same", jpeg(50), "again"), *pair("half", jpeg(52), None)]
    for name, members in (("0.tar", one), ("1.tar", two), ("2.tar", [])):
        write_tar(tmp_path / "pool" / name, members)
    (tmp_path / "pool" / "1.tar.tmp").write_bytes(b"")
    built = build(root, tmp_path / "pool", tmp_path / "set", "--k", "2")
    assert built.code == 0, built.err
    anchors = AnchorSet.open(str(tmp_path / "set"))
    samples = list(anchors.samples(raise_bad))
    assert len({record.key for record, _ in samples}) == len(samples) == 5
    texts = {record.text for record, _ in samples if record.kind == IMAGE_TEXT_PAIR}
    assert texts == {"line break and 😀"}
    counts = anchors.manifest.provenance.counts
    assert counts["screen"].dropped == {"empty_text": 2}
    assert counts["select"].dropped == {"duplicate": 1}


def test_other_places_than_disks(
    reference: Reference, finetune: Path, pairs: Path, tmp_path: Path
) -> None:
    from shards import places

    store = f"memory://{tmp_path.name}"
    for root, name in ((finetune, "ft"), (pairs, "pool")):
        for path in root.rglob("*"):
            if path.is_file():
                place = f"{store}/{name}/{path.relative_to(root)}"
                places.write_bytes(place, path.read_bytes())
    built = build(f"{store}/ft", f"{store}/pool", f"{store}/set")
    assert built.code == 0, built.err
    found = {
        name: places.read_bytes(f"{store}/set/{name}") for name in places.find_files(f"{store}/set")
    }
    wanted = {
        str(p.relative_to(reference[0])): p.read_bytes()
        for p in reference[0].rglob("*")
        if p.is_file()
    }
    assert found == wanted


def test_units_are_references_of_a_few_bytes(finetune: Path, pairs: Path) -> None:
    """What crosses a shuffle: a unit of the pool is a name, however large its tar is."""
    import pickle

    from shards.sources import open_labelled, open_pool

    for unit in [*open_pool(str(pairs)).units, *open_labelled(str(finetune)).units]:
        assert len(pickle.dumps(unit)) < 1500


def test_a_relative_pool_is_the_same_pool(
    reference: Reference,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    finetune: Path,
    pairs: Path,
) -> None:
    shutil.copytree(finetune, tmp_path / "ft")
    shutil.copytree(pairs, tmp_path / "pool")
    monkeypatch.chdir(tmp_path)
    assert build("./ft", "./pool", "set").code == 0
    assert contents(tmp_path / "set") == contents(reference[0])


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    for name in arguments("a", "b", "c"):
        if name.startswith("--"):
            assert name in said
    assert "default: 10" in said


def test_options_are_checked_before_the_models_are_imported() -> None:
    heavy = "{'faiss', 'open_clip', 'transformers'}"
    code = f"import sys, pipelines.__main__; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_finetune_tar_without_samples_is_no_hole(tmp_path: Path, pairs: Path) -> None:
    root = labelled_tars(tmp_path / "cb")
    write_tar(root / "train" / "2.tar", [])
    before = "caption,embed,screen,retrieve,select"
    assert build(root, pairs, tmp_path / "set", "--stages", before).code == 0
    built = build(root, pairs, tmp_path / "set", "--stages", "assemble")
    assert built.code == 0, built.err
    assert AnchorSet.open(str(tmp_path / "set")).manifest.provenance.inputs[2].name == "2.tar"
