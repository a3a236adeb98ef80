"""`python -m torchtide` is the `tide` command."""

import sys

from torchtide.cli import main

sys.exit(main())
