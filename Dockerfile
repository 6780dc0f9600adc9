# The operator's image: docs/image.md says what is in it and how to build it for several platforms.
ARG NODE_IMAGE=node:26-slim
ARG BUILD_IMAGE=${NODE_IMAGE}

# What Node and its libraries are taken from. Nothing of it runs, so that any platform can be built on any other.
FROM ${NODE_IMAGE} AS node

FROM --platform=${BUILDPLATFORM} ${BUILD_IMAGE} AS build
WORKDIR /src
COPY package.json package-lock.json .npmrc ./
RUN npm ci --ignore-scripts
COPY . .
ARG SOURCE_DATE_EPOCH=0
RUN --mount=type=bind,from=node,target=/node node scripts/rootfs.ts /node /rootfs

FROM scratch
COPY --from=build /rootfs/runtime/ /
COPY --from=build /rootfs/app/ /
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="personal-connector-operator" \
  org.opencontainers.image.description="Kubernetes operator for PersonalConnectors: MCP servers hosted in the cluster, or probed where others host them" \
  org.opencontainers.image.url="https://aitronos.com" \
  org.opencontainers.image.licenses="Apache-2.0" \
  org.opencontainers.image.version="${VERSION}" \
  org.opencontainers.image.revision="${REVISION}" \
  org.opencontainers.image.created="${CREATED}"
ENV PATH=/usr/local/bin NODE_ENV=production SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532:65532
EXPOSE 8080
# Of the container's memory the heap may have so much: what it keeps of connectors is a fraction of what it would grow to
# without a bound, and what is not the heap needs the rest. New objects get little room, since most are gone at once.
ENTRYPOINT ["node", "--max-semi-space-size=4", "--max-old-space-size-percentage=60", "/app/operator.mjs"]
