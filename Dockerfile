# The server. `docker build -t weightloom .` for processors, `--build-arg VARIANT=cuda` for NVIDIA GPUs beside them.
#
# Size (processors): 337 MB on top of the base image. LLVM (llvmlite) is 172 of these, numpy 54, numba 20, grpc 19, uvloop
# 14, psycopg 12. LLVM cannot be left out: it compiles the kernels for whatever processor it meets. No pip beside the base
# image's, no compiler and no test, and bytecode only of what a server imports.
#
# Versions are those of constraints.txt (torch pins its CUDA packages itself); each package's metadata is there for tools
# that make an SBOM. Which index or proxy pip uses is its own business: PIP_… are build arguments.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG VARIANT=cpu

FROM ${PYTHON_IMAGE} AS build
ARG VARIANT
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_TRUSTED_HOST PIP_CERT
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_CONSTRAINT=/src/constraints.txt
WORKDIR /src
RUN python -m venv --without-pip /opt/weightloom
# First the packages alone, under an empty weightloom: they are a layer that changes with pyproject.toml only.
COPY pyproject.toml README.md LICENSE constraints.txt ./
RUN mkdir -p service/weightloom clients/python/weightloom_client proto/weightloom_proto \
    && echo '__version__ = "0"' >service/weightloom/__init__.py \
    && if [ "$VARIANT" = cuda ]; then extras=server,postgres,cuda; else extras=server,postgres; fi \
    && pip --python /opt/weightloom/bin/python install --no-compile ".[$extras]" \
    && pip --python /opt/weightloom/bin/python uninstall --yes --quiet weightloom \
    && cd /opt/weightloom/lib/python3*/site-packages \
    && rm -rf numba/tests llvmlite/tests && find numpy -type d -name tests -prune -exec rm -rf {} +
COPY service service
COPY clients clients
COPY proto proto
RUN pip --python /opt/weightloom/bin/python install --no-compile --no-deps . \
    && find /opt/weightloom -name __pycache__ -prune -exec rm -rf {} +

FROM ${PYTHON_IMAGE} AS runtime-cpu

# Cannot be run where this file was written: there was no GPU in a container. Triton compiles its kernels when the server
# first starts: with gcc, the C library's headers and Python's (python:…-slim has those), into a folder that is kept.
FROM ${PYTHON_IMAGE} AS runtime-cuda
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
ENV TRITON_CACHE_DIR=/var/cache/weightloom/triton NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN install -d -o 10001 -g 10001 /var/cache/weightloom

FROM runtime-${VARIANT}
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="weightloom" \
      org.opencontainers.image.description="A server for model weights that keeps no weights" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/weightloom /opt/weightloom
COPY deploy/entrypoint.sh /usr/local/bin/weightloom-entrypoint
ENV PATH=/opt/weightloom/bin:${PATH}
# A name for the number, and the data volume's owner. Then bytecode of what a server imports and no more of it.
RUN --mount=type=bind,source=deploy/warm.py,target=/tmp/warm.py \
    echo 'weightloom:x:10001:10001::/nonexistent:/usr/sbin/nologin' >>/etc/passwd \
    && echo 'weightloom:x:10001:' >>/etc/group \
    && install -d -o 10001 -g 10001 -m 750 /data \
    && NUMBA_CACHE_DIR=/opt/kernels python /tmp/warm.py
ENV HOME=/tmp \
    NUMBA_CACHE_DIR=/tmp/numba \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    WEIGHTLOOM_DATA_DIR=/data \
    WEIGHTLOOM_HOST=0.0.0.0 \
    WEIGHTLOOM_LOG_FORMAT=json
USER 10001:10001
WORKDIR /data
EXPOSE 8000 50051
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=500ms --retries=3 \
    CMD ["python", "-m", "weightloom.health"]
ENTRYPOINT ["weightloom-entrypoint"]
CMD ["serve"]
