"""`python -m assay`: the command line."""

import sys

from assay.cli import main

if __name__ == "__main__":
    sys.exit(main())
