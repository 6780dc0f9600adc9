# The operator's image: one bundled file on a bare Node. Make the file first: npm run build
ARG BASE=node:26-slim
FROM ${BASE}
COPY dist/operator.mjs /app/operator.mjs
USER 65532:65532
ENV NODE_ENV=production
EXPOSE 8080
ENTRYPOINT ["node", "/app/operator.mjs"]
