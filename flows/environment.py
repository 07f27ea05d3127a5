"""Settings of Prefect, MLflow and others that every process of treepo starts with."""

from __future__ import annotations

import os

# Prefect reads its own when it is imported; what a user set wins.
ENVIRONMENT = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,treepo",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # The tracker tries again later itself; seven retries of a server that is gone take minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",  # the progress that matters is our own
}
HEARTBEAT = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"  # [s]; Prefect takes no less than 30


def prepare() -> None:
    """Set what is not set."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
