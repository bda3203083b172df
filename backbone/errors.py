"""The one exception that means: the user can mend this."""


class UserError(ValueError):
    """A mistake in what the user gave: a path, a config value, a file, a flag.

    The message is one line that says what is wrong, where, and what to do. The command lines
    print it as ``error: …`` and exit with status 2; in Python it is an ordinary ``ValueError``.
    """
