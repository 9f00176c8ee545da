"""`python -m pygrok.quantize` is `pygrok-quantize`."""

import sys

from pygrok.quantize.cli import main

if __name__ == "__main__":
    sys.exit(main())
