"""The ways in which a command can end other than well."""


class UserError(Exception):
    """The input is wrong: one line that names the file, key or row and says what to do (exit 2)."""


class WorkError(Exception):
    """The input was fine and the work failed: one line that says what and where (exit 1)."""


class Stopped(BaseException):
    """It was told to stop, and everything that it made stands: run again to go on (exit 0)."""
