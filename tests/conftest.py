"""Settings that every test shares.

Property tests draw 100 examples each; `pytest --hypothesis-profile=sweep` draws 5,000.
"""

import os

from hypothesis import HealthCheck, settings

os.environ["JAX_PLATFORMS"] = "cpu"  # the same numbers on machines that have more

_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("default", max_examples=100, **_COMMON)
settings.register_profile("sweep", max_examples=5000, **_COMMON)
settings.load_profile("default")
