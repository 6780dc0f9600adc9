# The operator's image: one bundled file on a bare Node. Make the file first: npm run build
ARG BASE=node:26-slim
FROM ${BASE}
COPY dist/operator.mjs /app/operator.mjs
USER 65532:65532
# Names are resolved by libuv's threads. A zone that never answers holds one for up to a minute, also when the probe has
# long given up: as many as there are such names among a few hundred connectors.
ENV NODE_ENV=production UV_THREADPOOL_SIZE=128
EXPOSE 8080
ENTRYPOINT ["node", "/app/operator.mjs"]
