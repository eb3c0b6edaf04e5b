"""What all tests share: no deadlines on property tests, no network, quiet telemetry."""

import os

from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")

settings.register_profile("corgi", deadline=None, derandomize=True)
settings.load_profile("corgi")
