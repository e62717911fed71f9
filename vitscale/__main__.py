"""`python -m vitscale` is the command `vitscale`."""

import sys

from vitscale.cli.main import main

sys.exit(main())
