"""``python -m minicf``"""

import sys

from minicf.cli import main

if __name__ == "__main__":
    sys.exit(main())
