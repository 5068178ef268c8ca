"""`python -m semattn` is the command `semattn`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
