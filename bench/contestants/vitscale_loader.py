"""vitscale's loader: python -m bench.contestants.vitscale_loader FOLDER IMAGES c|pillow."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.contestants.timing import report
from vitscale.config.data import DataConfig
from vitscale.data.corpus import open_corpus
from vitscale.data.loader import TrainLoader
from vitscale.place import Place


def main() -> None:
    folder, images, decode = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    config = DataConfig.model_validate(
        {
            "train": f"{folder}/shards",
            "decode": decode,
            "threads": 1,
            "crop_area": (0.08, 1.0),  # torchvision's, as the others do
        }
    )
    loader = TrainLoader(
        open_corpus(config.train, config),
        config,
        image=(224, 224),
        batch=64,
        micro_batch=64,
        seed=0,
        place=Place(),
    )
    report((batch.images for batch in loader.batches(0)), Path(folder), images)
    loader.close()


if __name__ == "__main__":
    main()
