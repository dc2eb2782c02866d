import sys

from ttq_energy.cli import main

sys.exit(main())
