# API, relay and one-shot tasks: no torch.
FROM python:3.11-slim-bookworm AS build
WORKDIR /build
RUN python -m venv /venv
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY momentum_core momentum_core
COPY worker worker
COPY api api
RUN /venv/bin/pip install --no-cache-dir --constraint constraints.txt '.[api,relay,s3,traces]'

FROM python:3.11-slim-bookworm
COPY --from=build /venv /venv
COPY docker/make_secrets.py /opt/make_secrets.py
# Volumes take over whom these belong to.
RUN useradd --system --uid 10001 --no-create-home momentum \
    && install --directory --mode=0700 --owner=10001 --group=10001 /data \
    && install --directory --owner=10001 --group=10001 \
        /secrets /secrets/service /secrets/database /secrets/broker /secrets/certificates \
        /secrets/prometheus /secrets/grafana /secrets/store /secrets/store-files
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MOMENTUM_DATA_DIR=/data
USER 10001:10001
WORKDIR /data
EXPOSE 8000
CMD ["python", "-m", "api.server", "--host", "0.0.0.0", "--port", "8000"]
