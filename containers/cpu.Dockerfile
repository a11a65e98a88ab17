# r2rt on a CPU, amd64 and arm64: docker build -f containers/cpu.Dockerfile -t r2rt .
ARG PYTHON=3.11
FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE CHANGELOG.md ./
COPY r2rt ./r2rt
COPY containers ./containers
RUN python3 -m pip install --quiet --no-cache-dir build \
    && python3 -m build --quiet --wheel --outdir /dist . \
    && containers/install.sh /dist/*.whl /opt/r2rt cpu

FROM python:${PYTHON}-slim
COPY --from=build /opt/r2rt /opt/r2rt
# Any user may write to the volume, so that `docker run --user` works as well.
RUN mkdir -m 1777 /data
ENV PATH=/opt/r2rt/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    R2RT_HOME=/data \
    R2RT_CACHE=/data/cache
VOLUME /data
WORKDIR /work
USER 65534:65534
ENTRYPOINT ["r2rt"]
CMD ["--help"]
