"""The one exception a user can cause. The command line prints its single line and exits with status 2."""


class UserError(Exception):
    """Bad input, told in one line: what is wrong, the value seen, the values accepted, the next step."""
