"""``python -m srum_plugins``, where the script ``srum`` is not on the path."""

import sys

from srum_plugins.cli import main

sys.exit(main())
