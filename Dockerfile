# The contractors, the lab and cortexctl in one image; compose.yaml names the program of each service.

FROM rust:1.95-slim-trixie AS build
WORKDIR /source
COPY . .
RUN cargo build --release --locked \
    --package infrastructure-contractor --package talos-contractor --package simulators --package cortexctl --bins

FROM debian:trixie-slim
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
# Named volumes take their owner from these folders when they are made.
RUN install -d -o 10001 -g 10001 -m 0700 /bus /lab /var/lib/cortex
COPY --from=build /source/target/release/infrastructure-contractor /usr/local/bin/
COPY --from=build /source/target/release/talos-contractor /usr/local/bin/
COPY --from=build /source/target/release/lab /usr/local/bin/
COPY --from=build /source/target/release/cortexctl /usr/local/bin/
# As in deploy/systemd: what the contractors free goes back to the system.
ENV GLIBC_TUNABLES=glibc.malloc.arena_max=2:glibc.malloc.trim_threshold=131072:glibc.malloc.mmap_threshold=131072
USER 10001:10001
CMD ["cortexctl", "--help"]
