"""The machine that measures, by what its speed depends on, and the commit."""

import datetime
import os
import pathlib
import platform
import re
import subprocess
import tomllib
from typing import Any


ROOT = pathlib.Path(__file__).parents[1]


def machine(jax_platform: str) -> dict[str, Any]:
    """Where, when and on which commit this runs."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "processor": processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "platform": jax_platform,
    }


def machine_name(jax_platform: str) -> str:
    """A name for a file: processor, cores, and JAX's platform where it is no CPU."""
    name = re.sub(r"[^a-z0-9]+", "-", processor().lower()).strip("-")
    return f"{name}-{cores()}-cores" + (
        "" if jax_platform == "cpu" else f"-{jax_platform}"
    )


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not everywhere
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Its maker's name and its family, as one name may be that of several."""
    path = pathlib.Path("/proc/cpuinfo")
    if path.exists():
        text = path.read_text()
        found = re.findall(r"^([^\t:\n]+?)\s*:[ \t]*(.*)$", text.split("\n\n")[0], re.M)
        fields = dict(found)
        for name, *details in (
            ("model name", "cpu family", "model"),
            ("CPU part", "CPU implementer", "CPU variant"),  # of ARM
        ):
            if name in fields:
                described = [f"{d} {fields[d]}" for d in details if d in fields]
                return f"{fields[name]} ({', '.join(described)})"
    brand = ["sysctl", "-n", "machdep.cpu.brand_string"]
    if platform.system() == "Darwin" and (name := output_of(brand)):
        return name
    return platform.processor() or platform.machine()


def version() -> str:
    """That of the source tree, which need not be the installed one."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def commit() -> str | None:
    """The commit that is measured, `-dirty` if the library differs from it."""
    name = output_of(["git", "rev-parse", "--short", "HEAD"])
    changed = output_of(["git", "status", "--porcelain", "--", "src"])
    return f"{name}-dirty" if name and changed else name


def output_of(command: list[str]) -> str | None:
    """What a command prints, or nothing if it fails or is not there."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() or None
