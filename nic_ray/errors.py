"""The two ways in which a command ends badly."""


class InputError(ValueError):
    """The user's files, values or arguments cannot be used: exit code 2.

    The message names the place, the value found, the rule, and the way out.
    """


class RunError(RuntimeError):
    """The input was fine and the run failed all the same: exit code 1."""
