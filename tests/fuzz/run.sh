#!/bin/sh
# Feeds damaged JPEGs to the C core under AddressSanitizer and UndefinedBehaviorSanitizer.
#
#     tests/fuzz/run.sh [SECONDS] [FIRST]
#
# A failure prints the number of its execution; FIRST = that number repeats it. Needs gcc or clang and the headers of
# libjpeg-turbo, no network.
set -eu
seconds=${1:-60}
first=${2:-0}
here=$(cd "$(dirname "$0")" && pwd)
built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT INT TERM

cd "$here/../../vitscale/data/native"
${CC:-gcc} -std=c11 -D_GNU_SOURCE -g -O1 -fno-omit-frame-pointer -DVS_MAX_PIXELS=1000000 -I. \
  -fsanitize=address,undefined -fno-sanitize-recover=all \
  jpeg.c huffman.c resize.c passes.c checksum.c "$here/target.c" "$here/seeds.c" "$here/driver.c" -ljpeg -o "$built/driver"
"$built/driver" "$seconds" "$first"
