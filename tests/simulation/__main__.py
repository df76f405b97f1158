"""See `many`."""

import sys

from .many import main

if __name__ == "__main__":
    sys.exit(main())
