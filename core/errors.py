"""The one exception a user can cause. The command line prints its single line and exits with status 2."""


class UserError(Exception):
    """Bad input, told in one line: what is wrong, the value seen, the values accepted, the next step."""


def first_line(error: BaseException) -> str:
    """What a library's error says, as a part of our line: its first line, cut, or its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
