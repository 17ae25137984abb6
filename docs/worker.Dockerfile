# The image of a worker: Beam's harness, the package, and the models, so that no worker downloads.
# Python and apache-beam must be the versions that the job is sent with (see constraints.txt).
#
#     python -m pip wheel --no-deps --wheel-dir dist .
#     docker build -f docs/worker.Dockerfile -t anchorft-worker .
FROM apache/beam_python3.11_sdk:2.77.0 AS beam

FROM python:3.11-slim
COPY --from=beam /opt/apache/beam /opt/apache/beam
COPY constraints.txt dist/anchorft-*.whl /tmp/
# PyPI's torch brings CUDA along; the driver comes from the machine.
RUN python -m pip install --no-cache-dir -c /tmp/constraints.txt \
    "$(echo /tmp/anchorft-*.whl)[pipelines,s3]" gcsfs && rm /tmp/anchorft-*.whl
# The models of your --captioner and --encoder.
RUN python -c "import transformers as t; n = 'Salesforce/blip-image-captioning-base'; t.BlipForConditionalGeneration.from_pretrained(n); t.AutoProcessor.from_pretrained(n)" \
 && python -c "import models, open_clip; open_clip.create_model('ViT-B-16', pretrained='laion2b_s34b_b88k')"
ENV HF_HUB_OFFLINE=1
ENTRYPOINT ["/opt/apache/beam/boot"]
