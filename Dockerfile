# The operator's image: a bundled file for it and one for its bridge, on a bare Node. Make the file first: npm run build
ARG BASE=node:26-slim
FROM ${BASE}
COPY dist/operator.mjs dist/bridge.mjs /app/
USER 65532:65532
ENV NODE_ENV=production
EXPOSE 8080
ENTRYPOINT ["node", "/app/operator.mjs"]
