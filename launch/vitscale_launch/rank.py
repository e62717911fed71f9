"""One rank under torchrun: `torchrun -m vitscale_launch.rank ORDER.json REPLY.json`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vitscale.durable import write_text_atomically
from vitscale.place import place_of
from vitscale_launch.job import check_machine, insist_on_versions, ordered_job


def main(words: Sequence[str]) -> int:
    """Run the order in `words[0]`; the first rank writes the reply to `words[1]`.

    Returns:
        0 also where the run stopped or failed for good: torchrun starts ranks again on anything else.
    """
    order = json.loads(Path(words[0]).read_text(encoding="utf-8"))
    insist_on_versions(order)
    job = ordered_job(order)
    if place_of().is_first:
        check_machine(job)
    from vitscale.train import worker

    reply = worker.run(job.request | {"job": os.environ.get("SLURM_JOB_ID", "")})
    if place_of().is_first:
        write_text_atomically(Path(words[1]), json.dumps(reply) + "\n")
        print(f"vitscale: {reply['message']}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
