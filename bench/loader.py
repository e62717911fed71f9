"""Loaders side by side: images per CPU-second of crop + resize to 224 px, on the same JPEGs of about 500 x 375.

    python -m bench.loader [--peers .venv-peers/bin/python] [--images 800] [--rounds 6]

Every contestant is a process of its own without workers, and its speed is taken over that of a yardstick that it runs
in between (`contestants/timing.py`). Rounds are interleaved; the median of each counts. Only ratios mean anything.
Writes bench/results/loader.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.photos import photos
from vitscale.data.samples import Sample, Split
from vitscale.data.write import pack

CLASSES = 10
OURS = {
    "vitscale": ("bench.contestants.vitscale_loader", "c"),
    "vitscale without a compiler": ("bench.contestants.vitscale_loader", "pillow"),
    "plain decode": ("bench.contestants.plain_decode",),
}
PEERS = ("webdataset", "torchvision", "streaming")
RESULTS = Path(__file__).parent / "results" / "loader.json"


def make_data(folder: Path, images: int) -> None:
    """The same files as vitscale shards, which webdataset reads too, and as an image folder."""
    samples = []
    for number, data in enumerate(photos(images)):
        label = number % CLASSES
        path = folder / "folder" / str(label) / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        samples.append(Sample(f"{number:05d}", "jpg", path, label))
    names = tuple(map(str, range(CLASSES)))
    pack(Split(names, samples), folder / "shards", shard_samples=max(1, images // 8))


def contestants(peers: str | None, folder: Path, images: int) -> dict[str, list[str]]:
    """Command of each contestant."""
    where = [str(folder), str(images)]
    found = {
        name: [sys.executable, "-m", module, *where, *more]
        for name, (module, *more) in OURS.items()
    }
    for name in PEERS if peers else ():
        command = [str(peers), "-m", "bench.contestants.peers", name, *where]
        found[name] = command
        found[f"{name} to uint8"] = [*command, "uint8"]
    return found


def speed_of(command: list[str]) -> tuple[float, float]:
    """Images per CPU-second that a contestant prints last, and the same over its yardstick's."""
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return found["images_per_cpu_s"], found["images_per_cpu_s"] / found["yardstick"]


def results_of(speeds: dict[str, list[tuple[float, float]]]) -> dict[str, object]:
    """Best speeds, and our loader over each of the others."""
    over = {name: statistics.median(each for _, each in found) for name, found in speeds.items()}

    def ratio(other: str, ours: str = "vitscale") -> float | None:
        return round(over[ours] / over[other], 3) if other in over else None

    return {
        "images_per_cpu_s": {name: round(max(found)[0], 1) for name, found in speeds.items()},
        "over_yardstick": {name: round(each, 3) for name, each in over.items()},
        "vs_plain_decode": ratio("plain decode"),
        "pillow_vs_plain_decode": ratio("plain decode", "vitscale without a compiler"),
        "vs_webdataset": ratio("webdataset"),
        "vs_webdataset_uint8": ratio("webdataset to uint8"),
        "vs_torchvision": ratio("torchvision"),
        "vs_torchvision_uint8": ratio("torchvision to uint8"),
        "vs_streaming": ratio("streaming"),
        "vs_streaming_uint8": ratio("streaming to uint8"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", help="Python of an environment with bench/peers.txt installed")
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_data(folder, arguments.images)
        commands = contestants(arguments.peers, folder, arguments.images)
        speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for number in range(arguments.rounds):
            for name, command in commands.items():
                speeds[name].append(speed_of(command))
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
    results = results_of(speeds)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
