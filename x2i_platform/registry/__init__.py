"""Runs and registered models, kept in MLflow; nothing outside this package imports it.

MLflow reads these settings when it is imported, which only the modules below do: it reports no usage, and it prints
neither progress bars, nor links on stdout, nor anything milder than a warning. What the user has set stays.
"""

import os

for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}.items():
    os.environ.setdefault(_name, _value)
