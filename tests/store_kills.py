"""A run that is killed again and again: `python store_kills.py FOLDER KILLS`.

Each process goes on with the store and is killed at a random time, often in the middle
of a write; a last one completes it, and another one fills a store without disturbance.
It prints, as JSON, how many kills there were, how many within a write, and which files
of finished tiles any of them changed.
"""

import contextlib
import json
import os
import pathlib
import random
import signal
import sys
import time

import jax
import numpy as np

import eqtangents as eqt
from eqtangents import nn


EXAMPLES, TILE = 120, 3  # 820 tiles, more than so many processes can add


def computed(store):
    net = nn.Sequential([nn.Linear(8), nn.Relu(), nn.Linear(1)])
    x = np.random.RandomState(0).normal(size=(EXAMPLES, 5)).astype(np.float32)
    return eqt.gram(net, x, store=store, tile=TILE)


class Slowly:
    """A file of which some is written, and a little later the rest."""

    def __init__(self, file):
        self.file = file

    def write(self, data):
        data = bytes(data)
        half = len(data) // 2
        self.file.write(data[:half])
        self.file.flush()
        time.sleep(random.uniform(0.0, 0.03))
        return half + self.file.write(data[half:])

    def __enter__(self):
        self.file.__enter__()
        return self

    def __exit__(self, *error):
        return self.file.__exit__(*error)


def write_slowly():
    opened = pathlib.Path.open

    def slow(path, *args, **kwargs):
        file = opened(path, *args, **kwargs)
        return Slowly(file) if path.suffix == ".partial" else file

    pathlib.Path.open = slow


def finished(store):
    """The files of finished tiles: a file that is written anew is another one."""
    paths = pathlib.Path(store).rglob("c/*/*")
    paths = (path for path in paths if path.suffix != ".partial")
    return {str(path): path.stat().st_ino for path in paths}


def killed(store, seed):
    """One process that goes on with the store until it is killed.

    The time runs from the first tile that it adds, or from its start.
    """
    before = finished(store).keys()
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            random.seed(seed)
            write_slowly()
            computed(store)
        os._exit(0)
    if seed % 10:
        while finished(store).keys() == before and not over(pid):
            time.sleep(0.01)
    time.sleep(random.uniform(0, 0.1 if seed % 10 else 3))
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1] == signal.SIGKILL


def over(pid):
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "Z"


def main(folder, kills):
    store = pathlib.Path(folder) / "killed"
    random.seed(0)
    jax.config.update("jax_compilation_cache_dir", f"{folder}/programs")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    count, within, changed, seen = 0, 0, [], 0
    for seed in range(kills):
        known = finished(store)
        count += killed(store, seed)
        left = len(list(store.rglob("*.partial")))
        within, seen = within + (left > seen), left
        there = finished(store)
        changed += [path for path, file in known.items() if there.get(path) != file]
    known = finished(store)
    for one in (store, store.with_name("undisturbed")):
        pid = os.fork()
        if not pid:
            computed(one)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    there = finished(store)
    changed += [path for path, file in known.items() if there.get(path) != file]
    result = {"kills": count, "within": within, "changed": changed}
    print(json.dumps({**result, "before": len(known), "tiles": len(there)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
