"""The exceptions that speak to the user."""

import difflib

RUN_AGAIN = 75  # exit status: what is saved is good, and the same command continues (EX_TEMPFAIL of sysexits.h)


class UserError(Exception):
    """Something the user can put right: says what is wrong, where, with which value, and what to do.

    The command line prints its message without a traceback and exits with `status`.
    """

    status = 2


class OutOfReachError(UserError):
    """Another process, host or service did not answer: it may the next time, so an engine may try again."""

    status = 1


class Stopped(Exception):  # noqa: N818 (nothing went wrong)
    """The run was asked to stop; everything is saved, and the same command continues it."""


def unknown(key: str, value: str, choices) -> UserError:
    """The error of a name that is not one of its choices."""
    close = difflib.get_close_matches(value, choices, 1)
    hint = f'did you mean {close[0]!r}? ' if close else ''
    return UserError(f'config.{key} = {value!r}: unknown; {hint}One of: {", ".join(sorted(choices))}')
