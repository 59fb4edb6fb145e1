# Two images from one build: `--target api` (no torch) and `--target worker`.
FROM python:3.11-slim-bookworm AS build
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY connector connector
COPY contracts contracts
COPY learning learning
COPY policies policies
RUN python -m venv /opt/orchard \
    && PIP_CONSTRAINT=constraints.txt /opt/orchard/bin/pip install --no-cache-dir '.[pg,otel]'

FROM build AS build-worker
# A package index with another build of torch, e.g. without GPU libraries.
ARG TORCH_INDEX=
RUN if [ -n "$TORCH_INDEX" ]; then \
      /opt/orchard/bin/pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" \
        "$(sed -n 's/.*"\(torch==[0-9.]*\)".*/\1/p' pyproject.toml)"; \
    fi \
    && PIP_CONSTRAINT=constraints.txt /opt/orchard/bin/pip install --no-cache-dir '.[pg,otel,learning]'

FROM python:3.11-slim-bookworm AS api
RUN useradd --uid 10001 --create-home --home-dir /participant orchard
COPY --from=build /opt/orchard /opt/orchard
ENV PATH=/opt/orchard/bin:$PATH PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
USER orchard
WORKDIR /participant
VOLUME /participant
ENTRYPOINT ["orchard"]
CMD ["serve", "/participant"]

FROM python:3.11-slim-bookworm AS worker
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends bubblewrap libseccomp2 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --home-dir /participant orchard
COPY --from=build-worker /opt/orchard /opt/orchard
ENV PATH=/opt/orchard/bin:$PATH PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
USER orchard
WORKDIR /participant
VOLUME /participant
ENTRYPOINT ["orchard"]
CMD ["worker", "/participant"]
