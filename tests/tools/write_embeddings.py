"""Write embeddings by clip-retrieval's own writer. Runs in the environment of ``make tools``.

    python write_embeddings.py BATCHES OUTPUT PARTITIONS

BATCHES is a folder of one ``N.npy`` (float rows) and one ``N.json`` (key, caption and json of each
row) per partition. Only the writer's module is loaded: the package itself wants torch and a server.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib.metadata import distribution
from pathlib import Path

import numpy as np


def main(batches: str, output: str, partitions: str) -> None:
    place = distribution("clip-retrieval").locate_file("clip_retrieval/clip_inference/writer.py")
    spec = importlib.util.spec_from_file_location("writer", str(place))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for number in range(int(partitions)):
        rows = json.loads((Path(batches) / f"{number}.json").read_text("utf-8"))
        writer = module.NumpyWriter(number, output, True, True, True, int(partitions))
        embeddings = np.load(Path(batches) / f"{number}.npy", allow_pickle=False)
        writer(
            {
                "image_embs": embeddings,
                "text_embs": embeddings,
                "image_filename": [row["key"] for row in rows],
                "text": [row["caption"] for row in rows],
                "metadata": [row["json"] for row in rows],
            }
        )
        writer.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
