# The image of jobs/rayjob.yaml and serve/rayservice.yaml: what the Makefile installs, for a user without rights.
#
#     docker build --tag sluice .                            # CPUs
#     docker build --tag sluice:cuda --build-arg EXTRA=cuda . # GPUs, with vLLM
FROM python:3.12-slim-bookworm

# KubeRay's probes call wget; building needs make.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ray

USER ray
WORKDIR /home/ray/sluice

# First what installing needs, so that a change of code alone installs nothing again.
COPY --chown=ray pyproject.toml Makefile README.md LICENSE ./
COPY --chown=ray algorithms/__init__.py algorithms/
COPY --chown=ray actors/__init__.py actors/
COPY --chown=ray jobs/__init__.py jobs/
COPY --chown=ray serve/__init__.py serve/
ARG EXTRA=""
RUN make .venv/.installed \
    && if [ -n "$EXTRA" ]; then .venv/bin/uv pip install --quiet --python .venv/bin/python --editable ".[$EXTRA]"; fi

COPY --chown=ray . .
ENV PATH=/home/ray/sluice/.venv/bin:$PATH \
    PYTHONPATH=/home/ray/sluice \
    SLUICE_CACHE=/home/ray/.cache/sluice
