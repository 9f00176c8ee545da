"""Everything from nothing to the exported model: fetch, dialogues, tokenizer, train, export, evaluate.

Seeds are fixed; only the number of training steps depends on the machine, since the budget is time. A step
that was stopped goes on where it was when this is run again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def run(script: str, *options: str) -> None:
    print(f"== {script} {' '.join(options)}", flush=True)
    subprocess.run([sys.executable, str(HERE / script), *options], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--work", type=Path, default=Path("/tmp/nano"), help="folder for everything that is made"
    )
    parser.add_argument("--budget", type=float, default=4800, help="seconds of training")
    parser.add_argument(
        "--asset", action="store_true", help="also make the wheel's file; needs pygrok and gguf"
    )
    arguments = parser.parse_args()
    work = arguments.work
    common = ("--work", str(work))
    checkpoint = ("--checkpoint", str(work / "run" / "checkpoint.pt"))
    run("fetch.py", *common)
    run("questions.py", *common)
    run("tokenizer.py", *common)
    run("train.py", *common, "--run", str(work / "run"), "--budget", str(arguments.budget))
    run("export.py", *common, *checkpoint, "--target", str(work / "export"))
    run("evaluate.py", *common, *checkpoint, "--json", str(work / "figures.json"))
    if arguments.asset:
        log = ("--log", str(work / "run" / "log.jsonl"))
        run(
            "build_asset.py", "--export", str(work / "export" / "ckpt"), *log, "--target", str(work / "asset")
        )


if __name__ == "__main__":
    main()
