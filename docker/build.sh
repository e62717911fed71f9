#!/usr/bin/env bash
# Builds an image with the pins of versions.env:
#   docker/build.sh docker/Dockerfile vitscale
#   docker/build.sh docker/Dockerfile.cpu vitscale:cpu
set -euo pipefail
cd "$(dirname "$0")/.."
file=${1:?which Dockerfile}
tag=${2:?name of the image}

set -a
# shellcheck source=docker/versions.env
. docker/versions.env
set +a
pins=()
while IFS= read -r name; do
  # Docker takes the value from the environment; pins that a Dockerfile does not name would be refused.
  if grep -Eq "^ARG .*\b$name\b" "$file"; then pins+=(--build-arg "$name"); fi
done < <(grep -Eo '^[A-Z_]+' docker/versions.env)
exec docker build --file "$file" --tag "$tag" "${pins[@]}" .
