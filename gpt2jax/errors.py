"""The one exception that speaks to the user."""


class UserError(Exception):
    """Something the user can put right: says what is wrong, where, with which value, and what to do.

    The command line prints its message without a traceback and exits with status 2.
    """
