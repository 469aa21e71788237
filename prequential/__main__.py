"""``python -m prequential`` is ``preq``."""

import sys

from prequential.cli import main

if __name__ == "__main__":
    sys.exit(main())
