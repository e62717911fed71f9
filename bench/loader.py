"""Loaders side by side: images per CPU-second of crop + resize to 224 px, on the same JPEGs of about 500 x 375.

    python -m bench.loader [--peers .venv-peers/bin/python] [--images 2000] [--rounds 4]

Every contestant is a process of its own without workers; rounds are interleaved and the best of each counts, so only
ratios mean anything. Writes bench/results/loader.json.
"""

from __future__ import annotations

import argparse
import json
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


def speed_of(command: list[str]) -> float:
    """Images per CPU-second that a contestant prints last."""
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])["images_per_cpu_s"]


def results_of(best: dict[str, float]) -> dict[str, object]:
    """Speeds, and our loader over each of the others."""

    def ratio(other: str) -> float | None:
        return round(best["vitscale"] / best[other], 3) if other in best else None

    return {
        "images_per_cpu_s": {name: round(speed, 1) for name, speed in best.items()},
        "vs_plain_decode": ratio("plain decode"),
        "pillow_vs_plain_decode": round(
            best["vitscale without a compiler"] / best["plain decode"], 3
        ),
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
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder, arguments.images)
        commands = contestants(arguments.peers, folder, arguments.images)
        best = dict.fromkeys(commands, 0.0)
        for round_ in range(arguments.rounds):
            for contestant, command in commands.items():
                best[contestant] = max(best[contestant], speed_of(command))
            print(
                f"round {round_ + 1}: { ({n: round(s) for n, s in best.items()}) }", file=sys.stderr
            )
    results = results_of(best)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
