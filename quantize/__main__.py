"""The `pygrok-quantize` command; `python -m pygrok.quantize` is the same."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the process's own command line and return its exit code."""
    try:
        from pygrok.quantize.cli import main as command

        return command()
    except KeyboardInterrupt:  # before or after the command can catch it
        print("pygrok-quantize: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
