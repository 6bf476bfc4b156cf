"""Run ``covey`` as ``python -m cloud.cli``."""

import sys

from cloud.cli.main import main

sys.exit(main())
