# MailWatch in a container: docs/how-to/docker.md. Runs with a read-only root file system, without root and capabilities.
# A release names the base by its digest (PYTHON=...@sha256:...): docs/how-to/docker.md#what-it-is-made-of
ARG PYTHON=python:3.13-slim-bookworm

FROM ${PYTHON} AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# What builds is pinned as well, and lies apart from what runs: a build in isolation would take the newest there is.
COPY requirements-build.txt .
RUN python -m venv /opt/build && /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements-build.txt
COPY requirements.txt .
# dkimpy comes as source only; whatever else had no wheel would be built here unseen, so it fails instead.
RUN /opt/build/bin/pip wheel --require-hashes --no-build-isolation --only-binary :all: --no-binary dkimpy \
        --wheel-dir /wheels -r requirements.txt \
    && python -m venv /opt/mailwatch && /opt/mailwatch/bin/pip install --no-index --no-deps /wheels/*.whl
ENV PATH=/opt/mailwatch/bin:$PATH
COPY . .
# What runs needs no installer, no tests of others and no debug symbols; bytecode is made now, since later nothing
# can be written. The last line is the proof that what was stripped still loads.
RUN apt-get update && apt-get install --yes --no-install-recommends binutils \
    && /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /own . \
    && pip install --no-index --no-deps /own/*.whl \
    && mkdir -p /opt/mailwatch/share && python -m supply.sbom > /opt/mailwatch/share/sbom.cdx.json \
    && pip uninstall --yes pip \
    && find /opt/mailwatch -type d \( -name tests -o -name testing -o -name __pycache__ \) -prune -exec rm -rf {} + \
    && find /opt/mailwatch/lib -name '*.so' -exec strip --strip-unneeded {} + \
    && python -m compileall -q -j 0 /opt/mailwatch/lib \
    && python -c "import typst, lxml.etree, rfc3161_client, uvloop, pydantic, sqlalchemy, aiohttp, mailwatch.cli"

FROM ${PYTHON}
LABEL org.opencontainers.image.title=MailWatch org.opencontainers.image.licenses=GPL-3.0-only \
    mailwatch.sbom=/opt/mailwatch/share/sbom.cdx.json
RUN useradd --uid 10001 --user-group --home-dir /data --no-create-home --shell /usr/sbin/nologin mailwatch \
    && install -d -m 0700 -o mailwatch -g mailwatch /data
COPY --from=build /opt/mailwatch /opt/mailwatch
COPY config.example.yaml /etc/mailwatch/config.yaml
# A config that is mounted needs no change for the container: these two win over what it says.
ENV PATH=/opt/mailwatch/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MAILWATCH_DATA_DIR=/data \
    MAILWATCH_LISTEN=0.0.0.0:8080 \
    MAILWATCH_CONTAINER=true
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
# Follows MAILWATCH_LISTEN. Not --ready: restarting helps nobody whose disk is full.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["mailwatch", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["mailwatch"]
CMD ["run"]
