# Converting and inspecting workers (with the command `momentum`, for `momentum doctor`). TORCH_INDEX chooses the build of torch:
#   https://download.pytorch.org/whl/cpu      for processors (the default)
#   https://download.pytorch.org/whl/cu130    for NVIDIA GPUs; it brings CUDA along
FROM python:3.11-slim-bookworm AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /build
RUN python -m venv /venv
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY momentum_core momentum_core
COPY worker worker
COPY api api
RUN /venv/bin/pip install --no-cache-dir --index-url "$TORCH_INDEX" \
        --extra-index-url https://pypi.org/simple --constraint constraints.txt '.[api,s3,traces,worker]'

FROM python:3.11-slim-bookworm
# What compiles the rule's arithmetic into one pass over memory; without it updates are slower.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /venv /venv
RUN useradd --system --uid 10001 --no-create-home momentum \
    && install --directory --mode=0700 --owner=10001 --group=10001 /data
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MOMENTUM_DATA_DIR=/data \
    TORCHINDUCTOR_CACHE_DIR=/tmp/inductor \
    HOME=/tmp
USER 10001:10001
WORKDIR /data
CMD ["python", "-m", "celery", "--app", "worker.celery_app", "worker"]
