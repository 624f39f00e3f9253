"""Run the command line: python -m upscale_lit."""

import sys

from upscale_lit.cli import main

if __name__ == "__main__":
    sys.exit(main())
