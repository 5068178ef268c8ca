"""Entry point of `python -m semattn`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
