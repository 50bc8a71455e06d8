"""Around the stages: what runs when, with which retries. No science here, and `dvc repro` needs none of it.

Importing this package switches the tools' telemetry off (.env), before any of the tools is imported.
"""

import os
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


def _quiet() -> dict[str, str]:
    lines = (HERE / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


os.environ.update(_quiet())
