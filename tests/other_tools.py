"""img2dataset and clip-retrieval, run as people run them: in an environment of their own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

TOOLS = Path(sys.prefix) / "tools" / "bin"
needs_tools = pytest.mark.skipif(
    not (TOOLS.parent / ".installed").exists(), reason="`make tools` has not been run"
)


@contextlib.contextmanager
def image_server(files: Mapping[str, bytes]) -> Iterator[str]:
    """A web site with the files; everything else is 404. Yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = files.get(self.path.lstrip("/"))
            self.send_response(404 if data is None else 200)
            self.end_headers()
            self.wfile.write(data or b"gone")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def img2dataset(urls: Path, output: Path, columns: Sequence[str], **options: object) -> None:
    """Download a parquet of URL and TEXT, keeping further columns."""
    settings: dict[str, object] = {
        "url_list": urls,
        "output_folder": output,
        "input_format": "parquet",
        "url_col": "URL",
        "caption_col": "TEXT",
        "processes_count": 1,
        "thread_count": 4,
        "image_size": 48,
        "timeout": 5,
        "save_additional_columns": json.dumps(list(columns)),
    }
    words = [f"--{name}={value}" for name, value in (settings | options).items()]
    _run([str(TOOLS / "img2dataset"), *words])


def clip_retrieval_writes(
    batches: Path, output: Path, partitions: Sequence[tuple[NDArray[Any], list[dict[str, str]]]]
) -> None:
    """Embeddings with their key, caption and json, as clip-retrieval's inference leaves them."""
    batches.mkdir(parents=True)
    for number, (rows, about) in enumerate(partitions):
        np.save(batches / f"{number}.npy", rows)
        (batches / f"{number}.json").write_text(json.dumps(about), encoding="utf-8")
    script = Path(__file__).parent / "tools" / "write_embeddings.py"
    _run([str(TOOLS / "python"), str(script), str(batches), str(output), str(len(partitions))])


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command,
        env=os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1", "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
