"""The one exception that means: the user can fix this."""


class UserError(ValueError):
    """A mistake in the user's input: a path, a config value, a file, a flag.

    The message is one line that says what is wrong, where, and what to do. The command lines
    print it as ``error: …`` and exit with status 2; in Python it is an ordinary ``ValueError``.
    """

    def __str__(self) -> str:
        # PyTorch's loader workers pass an exception on with their traceback as its message
        return super().__str__().rpartition('UserError: ')[2].strip()
