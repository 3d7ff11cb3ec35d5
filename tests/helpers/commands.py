"The command line, called in the process of the tests."

from typer.testing import CliRunner

from ftguide.cli import app


def cli(*args) -> tuple[int, str]:
    "Exit code, and what was said; an error that the command line does not know is the test's."
    done = CliRunner().invoke(app, [str(a) for a in args])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output.strip()
