# scenetune with its demo data. Without a GPU: docker build -t scenetune .
# With one, name the index of the CUDA build: docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .

# The Python that the test suite runs on.
FROM python:3.11-slim AS build
# PyTorch's own indexes mark their builds (+cpu, +cu128), and pip prefers a marked one to the same version elsewhere.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# `demo,s3` for checkpoints in a bucket, `demo,ray` for Ray's nodes.
ARG EXTRAS=demo
RUN python -m venv /opt/scenetune
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY hpo hpo
COPY distill distill
COPY studies studies
COPY storage storage
# The cache lies outside the image, so that a change of code downloads nothing again.
RUN --mount=type=cache,target=/pip-cache \
    PIP_CACHE_DIR=/pip-cache \
    /opt/scenetune/bin/pip install --disable-pip-version-check --extra-index-url "$TORCH_INDEX" ".[$EXTRAS]"

FROM python:3.11-slim
# A fixed number: volumes keep their owner, and Kubernetes sees that it is not root.
RUN useradd --uid 10001 --user-group --create-home hpo \
    && install --directory --owner=hpo --group=hpo --mode=0750 /state
COPY --from=build /opt/scenetune /opt/scenetune
COPY studies/*.toml /studies/
COPY --chmod=0755 deploy/with-password /usr/local/bin/with-password
# Exports and reports are written below the working directory: the one place that lasts.
ENV PATH=/opt/scenetune/bin:$PATH \
    HPO_HOME=/state \
    PYTHONUNBUFFERED=1
VOLUME /state
WORKDIR /state
USER 10001:10001
# A worker puts its trial back before it ends. Process 1 should be an init: docker run --init, compose `init: true`.
STOPSIGNAL SIGTERM
# Nothing here serves; a worker that hangs loses its trial to the others by its heartbeat.
HEALTHCHECK NONE
ENTRYPOINT ["hpo"]
CMD ["--help"]
