"""`python -m fastedit`: the same as the `fastedit` command."""

import sys

from fastedit.cli import main

sys.exit(main())
