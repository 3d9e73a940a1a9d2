"""The environment that Prefect and Great Expectations are imported in; set before their import."""

from __future__ import annotations

import os

from pipeline_config.settings import settings
from tasks.runtime.files import storage_errors


def prepare_environment(*, verbose: bool = False) -> None:
    """Give Prefect a home under our root, no telemetry, and a console that leaves errors to us.

    A variable that is already set wins, but for the console's level: an error of bad input is told
    once, by us, without Prefect's traceback.
    """
    home = settings().root / "prefect"
    for name, value in {
        "PREFECT_HOME": home,
        "PREFECT_LOCAL_STORAGE_PATH": home / "results",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": int(settings().server_start_s),
        "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,flows",
        "DO_NOT_TRACK": "1",
        "GX_ANALYTICS_ENABLED": "false",
    }.items():
        os.environ.setdefault(name, str(value))
    if "PREFECT_API_URL" not in os.environ:
        # Nobody reads the log of an embedded server, and sending it would outlast the run.
        os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")
    if not verbose:
        os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    # Result records are believed, so nobody else may write there, whoever made the folder.
    with storage_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o700)
