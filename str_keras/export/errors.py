"""The one error of this room."""


class ExportError(ValueError):
    """A file that was not written: a refused combination, or one that proved wrong.

    The message is one line: the reason, and what to do instead. Nothing was left at
    the path, and a file that was there before is as it was.
    """
