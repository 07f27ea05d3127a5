"""Calls of a tracker that may be down: done in order, and kept while it does not answer."""

from __future__ import annotations

import logging
from collections.abc import Callable

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, TEMPORARILY_UNAVAILABLE, ErrorCode
from sqlalchemy.exc import OperationalError

from tasks.addresses import without_password

log = logging.getLogger(__name__)
# A locked database, a server that is gone; anything else would fail again.
PASSING = {ErrorCode.Name(code) for code in (INTERNAL_ERROR, TEMPORARILY_UNAVAILABLE)}


class TrackingQueue:
    """Calls by what they record. One that the tracker refuses for good is named and dropped."""

    def __init__(self) -> None:
        self._waiting: list[tuple[str, Callable[[], None]]] = []
        self._down = False

    def do(self, what: str, call: Callable[[], None]) -> None:
        """Do a call after all that wait; never raises what the tracker raises."""
        self._waiting.append((what, call))
        while self._waiting:
            what, call = self._waiting[0]
            try:
                call()
            except Exception as error:  # MLflow lets through what its libraries raise
                reason = without_password(str(error).split("\n")[0])
                if passes(error):
                    self._say_down(reason)
                    return
                log.warning("MLflow: %s not recorded (%s)", what, reason)
            self._waiting.pop(0)
        if self._down:
            log.warning("MLflow: records again, and has caught up")
            self._down = False

    def close(self) -> None:
        """Name what is missing at the end."""
        if self._waiting:
            names = ", ".join(dict.fromkeys(what for what, _ in self._waiting))
            log.warning("MLflow: not recorded: %s; all of it is in the artifacts", names)

    def _say_down(self, reason: str) -> None:
        if not self._down:
            log.warning("MLflow: does not record now (%s); tried again later", reason)
        self._down = True


def passes(error: Exception) -> bool:
    """Whether the same call may work later."""
    if isinstance(error, MlflowException):
        return error.error_code in PASSING
    return isinstance(error, OperationalError | OSError)
