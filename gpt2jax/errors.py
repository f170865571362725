"""The exceptions that speak to the user."""


class UserError(Exception):
    """Something the user can put right: says what is wrong, where, with which value, and what to do.

    The command line prints its message without a traceback and exits with status 2.
    """


class Stopped(Exception):  # noqa: N818 (nothing went wrong)
    """The run was asked to stop; everything is saved, and the same command continues it."""
