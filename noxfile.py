"""All checks of this project: `nox` runs what CI runs, `nox --list` shows the rest."""

import nox


nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.sessions = ["lint", "types", "quick-3.11", "reproductions"]

PROJECT = nox.project.load_toml("pyproject.toml")["project"]


@nox.session
def lint(session):
    """Style and formatting; `nox -s lint -- --fix` mends what can be mended."""
    session.install(*PROJECT["optional-dependencies"]["lint"])
    fix = "--fix" in session.posargs
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", *([] if fix else ["--check"]))


@nox.session
def types(session):
    """Static types."""
    session.install("-e", ".[types]")
    session.run("pyright")


@nox.session(python=["3.11", "3.13"])
def tests(session):
    """All tests, with the oldest JAX on the oldest Python and the newest on the newest.

    What plain `pytest` does, which has all options in `pyproject.toml`.
    """
    floor = ["-c", "tests/floor.txt"] if session.python == "3.11" else []
    session.install("-e", ".[table,tests]", *floor)
    session.run("pytest", *session.posargs)


@nox.session
def exhaustive(session):
    """All tests, with all cases that others imply: an hour more."""
    session.install("-e", ".[tests]")
    session.run("pytest", "--exhaustive", *session.posargs)


@nox.session(python=["3.11", "3.13"])
def quick(session):
    """The quick tests of every module, with the versions of `tests`."""
    floor = ["-c", "tests/floor.txt"] if session.python == "3.11" else []
    session.install("-e", ".[tests]", *floor)
    session.run("pytest", "-m", "not slow", *session.posargs)


@nox.session
def reproductions(session):
    """The claims of papers, repeated at a small size."""
    session.install("-e", ".[tests,reproductions]")
    session.run("pytest", "-m", "reproduction", *session.posargs)


@nox.session
def libraries(session):
    """Kernels for other libraries, and by their workers, with these installed."""
    session.install("-e", ".[tests,gpjax]", "ray", "mpi4py", "mpich")
    modules = ["libraries", "architecture", "store_recipes"]
    files = [f"tests/test_{name}.py" for name in modules]
    session.run("pytest", *files, *session.posargs)


@nox.session
def docs(session):
    """The pages, with all of their code run, in `site/`; `-- serve` shows them."""
    session.install("-e", ".[docs]")
    session.run("mkdocs", *(session.posargs or ["build", "--strict"]))


@nox.session
def browse(session):
    """All pages in `site/`, each opened in a browser that this machine has."""
    session.install("playwright")
    session.run("python", "website/browse.py", *session.posargs)


@nox.session(name="bench-smoke")
def bench_smoke(session):
    """Each kind of benchmark once, at its smallest size, so that it cannot rot."""
    session.install("-e", ".[examples]")
    session.run("python", "-m", "benchmarks", "--all", "--quick", *session.posargs)
