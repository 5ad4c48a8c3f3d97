# The image of jobs/rayjob.yaml and serve/rayservice.yaml: what the Makefile installs, for a user without rights.
#
#     docker build --tag sluice .                                  # CPUs
#     docker build --tag sluice:cuda --build-arg TARGET=cuda .    # GPUs, with vLLM
FROM python:3.12-slim-bookworm

# make installs; LightGBM needs libgomp, which comes with gcc; vLLM's kernels are compiled on first use; KubeRay's probes
# call wget.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ gcc make wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --shell /bin/bash --uid 1000 ray \
    && echo 'PATH=/home/ray/sluice/.venv/bin:$PATH' >> /home/ray/.profile

# By number: Kubernetes cannot tell whether a name is root.
USER 1000
WORKDIR /home/ray/sluice

# First what installing needs, so that a change of code alone installs nothing again.
COPY --chown=1000 pyproject.toml Makefile README.md LICENSE ./
COPY --chown=1000 algorithms/__init__.py algorithms/
COPY --chown=1000 actors/__init__.py actors/
COPY --chown=1000 jobs/__init__.py jobs/
COPY --chown=1000 serve/__init__.py serve/
ARG TARGET=.venv/.installed
RUN make $TARGET

COPY --chown=1000 . .
ENV PATH=/home/ray/sluice/.venv/bin:$PATH \
    PYTHONPATH=/home/ray/sluice \
    SLUICE_CACHE=/home/ray/.cache/sluice
