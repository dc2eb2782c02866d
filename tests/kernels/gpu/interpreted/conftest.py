"""The process that runs the checks is one in which Triton is an interpreter."""

import os
import sys
from pathlib import Path

if os.environ.get("TRITON_INTERPRET") == "1":
    sys.path.insert(0, str(Path(__file__).parent))
    import numpy_scalars

    numpy_scalars.accept()
else:
    collect_ignore = ["checks.py"]  # test_interpreted.py runs them where the variable is set
