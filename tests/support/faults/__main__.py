"""Run one driver and print what it counted."""

import importlib
import json
import sys

module, _, name = sys.argv[1].rpartition(".")
driver = getattr(importlib.import_module(f"faults.{module or 'drivers'}"), name)
counts = driver(*(int(a) if a.isdigit() else a for a in sys.argv[2:]))
print(json.dumps(counts))  # noqa: T201
