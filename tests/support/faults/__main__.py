"""Run one driver and print what it counted."""

import json
import sys

from faults import drivers

name, *arguments = sys.argv[1:]
counts = getattr(drivers, name)(*(int(a) if a.isdigit() else a for a in arguments))
print(json.dumps(counts))  # noqa: T201
