"""python -m upscale_lit: the command line."""

import sys

from upscale_lit.cli import main

if __name__ == "__main__":
    sys.exit(main())
