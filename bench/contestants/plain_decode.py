"""The physical limit: libjpeg-turbo decodes every pixel of each file and nothing else happens."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.contestants.timing import report
from vitscale.data.native import plain_decode


def main() -> None:
    files = [path.read_bytes() for path in sorted(Path(sys.argv[1], "folder").glob("*/*.jpg"))]
    images = int(sys.argv[2])

    def batches():
        while True:
            for begin in range(0, len(files) - 63, 64):
                yield [plain_decode(data) for data in files[begin : begin + 64]]

    report(batches(), Path(sys.argv[1]), images)


if __name__ == "__main__":
    main()
