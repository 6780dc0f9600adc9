# The operator's image: one bundled file on a bare Node. Make the file first: npm run build
ARG BASE=node:26-slim
FROM ${BASE}
COPY dist/operator.mjs /app/operator.mjs
USER 65532:65532
# Names are resolved by libuv's threads, which a zone that never answers holds for seconds: as many as probes run at a
# time (probe.concurrency, 32), and as many again for the rest.
ENV NODE_ENV=production UV_THREADPOOL_SIZE=64
EXPOSE 8080
ENTRYPOINT ["node", "/app/operator.mjs"]
