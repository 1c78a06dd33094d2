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
    floor = ["-c", "tests/floor.txt"] if session.python == "3.11" else []
    session.install("-e", ".[tests]", *floor)
    workers = ["--numprocesses=auto", "--maxprocesses=4"]
    session.run("pytest", *workers, *session.posargs, env={"JAX_ENABLE_X64": x64})


@nox.session(name="bench-smoke")
def bench_smoke(session):
    """Each benchmark once, at its smallest size, so that it cannot rot."""
    session.install("-e", ".")
    session.run("python", "-m", "benchmarks", "--smoke", *session.posargs)
