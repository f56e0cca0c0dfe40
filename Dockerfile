# One image for each service: gateway, router, usage, agent-worker; and `organism`, the command line, for what is done once.
FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN apt-get update && apt-get install --yes --no-install-recommends binutils
RUN python -m venv tools && python -m venv --without-pip /opt/organism
COPY requirements-build.lock requirements-image.lock ./
RUN tools/bin/pip install --require-hashes --requirement requirements-build.lock
RUN tools/bin/pip --python /opt/organism/bin/python install --no-compile --no-deps --require-hashes --requirement requirements-image.lock
COPY pyproject.toml README.md ./
COPY src src
RUN tools/bin/pip wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir wheels . \
    && tools/bin/pip --python /opt/organism/bin/python install --no-compile --no-deps --no-index wheels/*.whl \
    && find /opt/organism -type d -name tests -prune -exec rm -r {} + \
    && find /opt/organism -name '*.so*' -type f -exec strip --strip-unneeded {} + \
    && /opt/organism/bin/python -m compileall -q -j 0 /opt/organism/lib

FROM python:3.13-slim AS base
# One user for each service, by number: no service can read what belongs to another.
RUN for service in gateway:10001 router:10002 usage:10003 agent-worker:10004 organism:10005; do \
        echo "${service%:*}:x:${service#*:}:10000::/tmp:/usr/sbin/nologin" >> /etc/passwd; \
    done && echo 'organism:x:10000:' >> /etc/group
COPY --from=build /opt/organism /opt/organism
COPY examples/hello-world/organism.yaml examples/hello-world/*.py /organism/
ENV PATH=/opt/organism/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORGANISM_FILE=/organism/organism.yaml \
    ORGANISM_OPS_HOST=0.0.0.0 \
    ORGANISM_OPS_PORT=9100
WORKDIR /organism

FROM base AS service
COPY services/probe.py /opt/organism/probe.py
EXPOSE 9100
# Isolated and without site-packages: a start of Python takes little then, and there is one for each container every 5 s.
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-I", "-S", "/opt/organism/probe.py"]

FROM service AS gateway
COPY services/gateway/main.py /opt/organism/service.py
USER 10001:10000
EXPOSE 8080
CMD ["python", "/opt/organism/service.py"]

FROM service AS router
COPY services/router/main.py /opt/organism/service.py
USER 10002:10000
CMD ["python", "/opt/organism/service.py"]

FROM service AS usage
COPY services/usage/main.py /opt/organism/service.py
USER 10003:10000
CMD ["python", "/opt/organism/service.py"]

FROM service AS agent-worker
COPY services/agent-worker/main.py /opt/organism/service.py
USER 10004:10000
CMD ["python", "/opt/organism/service.py"]

FROM base AS organism
USER 10005:10000
ENTRYPOINT ["organism"]
CMD ["--help"]
