"""All checks of this project: `nox` runs what CI runs, `nox --list` shows the rest."""

import nox


nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.sessions = ["lint", "types", "tests-3.11"]

PROJECT = nox.project.load_toml("pyproject.toml")["project"]


@nox.session
def lint(session):
    """Style and formatting."""
    session.install(*PROJECT["optional-dependencies"]["lint"])
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session):
    """Static types."""
    session.install("-e", ".[types]")
    session.run("pyright")


@nox.session(python=["3.11", "3.13"])
@nox.parametrize("x64", ["0", "1"])
def tests(session, x64):
    """Tests, with the oldest JAX on the oldest Python and the newest on the newest."""
    run_tests(session, x64)


@nox.session(python="3.11")
@nox.parametrize("x64", ["0", "1"])
def exhaustive(session, x64):
    """All reference cases and functions, of which `tests` takes some: half an hour."""
    run_tests(session, x64, "-m", "exhaustive")


def run_tests(session, x64, *options):
    """Run pytest; the annotations are checked once, in single precision."""
    floor = ["-c", "tests/floor.txt"] if session.python == "3.11" else []
    session.install("-e", ".[tests]", *floor)
    workers = ["--numprocesses=auto", "--maxprocesses=4"]
    hook = [] if x64 == "0" else ["--jaxtyping-packages="]
    # Half of the time would go into optimising code that runs once.
    environment = {"JAX_ENABLE_X64": x64, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    arguments = [*workers, *hook, *options, *session.posargs]
    session.run("pytest", *arguments, env=environment)


@nox.session(name="bench-smoke")
def bench_smoke(session):
    """Each benchmark once, at its smallest size, so that it cannot rot."""
    session.install("-e", ".")
    session.run("python", "-m", "benchmarks", "--smoke", *session.posargs)
    session.run("python", "-m", "benchmarks.predict", "--smoke")
