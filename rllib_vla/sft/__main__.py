"""Entry point of `python -m rllib_vla.sft`."""

import sys

from rllib_vla.sft.main import main

sys.exit(main())
