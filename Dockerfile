# docker build --target service .   the API, without torch
# docker build --target worker .    imports, refits and GPU jobs, with torch
FROM python:3.13-slim AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --system --uid 10001 --create-home headstart \
    && install -d -o headstart -g headstart /data
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY headstart headstart
COPY service service
COPY worker worker
COPY migrations migrations
# a store of its own, for a container that is started alone; compose sets PostgreSQL
ENV HEADSTART_STORE=sqlite:////data/store.db

FROM base AS worker
RUN pip install -c constraints.txt -e '.[worker]'
USER headstart
HEALTHCHECK --interval=30s --timeout=10s --start-period=20s CMD ["python", "-m", "worker", "--check"]
CMD ["python", "-m", "worker"]

FROM base AS service
RUN pip install -c constraints.txt -e '.[service]'
USER headstart
# inside a container every interface is the container's own; without API keys it serves nobody there, unless
# HEADSTART_OPEN_BIND says that the published port decides who reaches it, as compose does
ENV HEADSTART_HOST=0.0.0.0 HEADSTART_PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD \
    ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD ["headstart", "serve"]
