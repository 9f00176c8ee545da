"""`python -m pygrok` is the `pygrok` command."""

import sys

from pygrok.cli import main

if __name__ == "__main__":
    sys.exit(main())
