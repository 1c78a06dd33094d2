"""The reference's environment: its own, as it needs an old JAX, and TensorFlow."""

import pathlib
import shutil
import subprocess


FOLDER = pathlib.Path(__file__).parent / ".reference-env"
REQUIREMENTS = [
    "neural-tangents==0.6.5",
    "jax==0.4.26",
    "jaxlib==0.4.26",
    "numpy<2",
    "scipy<1.13",
    "tf2jax",
]


def reference_python() -> pathlib.Path:
    """Python with Neural Tangents: made on first use (2.6 GB on disk), then reused."""
    python, done = FOLDER / "bin" / "python", FOLDER / "requirements.txt"
    wanted = "\n".join(REQUIREMENTS) + "\n"
    if done.exists() and done.read_text() == wanted:
        return python
    if uv := shutil.which("uv"):
        create = [uv, "venv", "--quiet", "--python", "3.11"]
        install = [uv, "pip", "install", "--quiet", "--python", python]
    elif python311 := shutil.which("python3.11"):
        create = [python311, "-m", "venv"]
        install = [python, "-m", "pip", "install", "--quiet"]
    else:
        raise FileNotFoundError(
            "Neural Tangents needs Python 3.11, and neither `uv` nor `python3.11` is "
            "on the PATH. Install one of them, pass `--reference-python PATH`, or "
            "time eqtangents alone with `--no-reference`."
        )
    print(f"Installing the reference in {FOLDER} (once) ...", flush=True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    subprocess.run([*create, FOLDER], check=True)
    (FOLDER / ".gitignore").write_text("*\n")
    subprocess.run([*install, *REQUIREMENTS], check=True)
    done.write_text(wanted)  # last, so that a broken installation is made anew
    return python
