"""Runs an entry point in this process, as its command line would."""

import pytest
from absl import flags

from str_keras import cli


def run(module, arguments, capsys):
    """Exit status (0 for none), standard output and error of a program."""
    before = set(flags.FLAGS)
    module.define_flags()
    try:
        with pytest.raises(SystemExit) as stopped:
            cli.run(module.main, ["program", *arguments])
    finally:
        # The programs have flags of the same names.
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err
