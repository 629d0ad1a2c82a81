"""Several trainings one after the other in the same ranks, so that torch is imported once: `torchrun THIS CASES.json`.

CASES.json: a list of command lines of train.py. The exit code is the first that is not 0.
"""

import json
import sys
from pathlib import Path

import train

if __name__ == "__main__":
    codes = [train.main(arguments) for arguments in json.loads(Path(sys.argv[1]).read_text())]
    sys.exit(next((code for code in codes if code), 0))
