FROM python:3.13-slim AS build
WORKDIR /source
RUN python -m venv /opt/remotelr
COPY requirements/service.txt requirements/
RUN /opt/remotelr/bin/pip install --no-cache-dir --require-hashes --requirement requirements/service.txt
COPY . .
RUN /opt/remotelr/bin/pip install --no-cache-dir --no-deps ./clients .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/remotelr remotelr
COPY --from=build /opt/remotelr /opt/remotelr
ENV PATH=/opt/remotelr/bin:$PATH \
    REMOTELR_HOST=0.0.0.0 \
    REMOTELR_PORT=8000 \
    REMOTELR_DATABASE_URL=sqlite:////var/lib/remotelr/remotelr.db
# A number instead of a name, so that an orchestrator can verify that it is not root.
USER 10001
WORKDIR /var/lib/remotelr
VOLUME /var/lib/remotelr
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"REMOTELR_PORT\"]}/livez', timeout=2)"]
ENTRYPOINT ["remotelr"]
CMD ["serve"]
