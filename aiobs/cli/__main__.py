"""``python -m aiobs.cli``: the command line where the ``aiobs`` script is not on PATH."""

from __future__ import annotations

import sys

from aiobs.cli.main import main

sys.exit(main())
