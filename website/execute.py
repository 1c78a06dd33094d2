"""Runs the code of every page while the site is built, and puts below it what it shows.

The blocks of a page that begin with three backticks and `python` are the cells of one
notebook, which is run in a process of its own, from the root of the repository. Below a
block stand what it prints, its figures, or if there are none the value of its last
line; of a block of `python hidden` these alone are shown. A warning or an exception
ends the build. Blocks that begin with `py` are shown, and not run.

Notebooks that were run are kept in `.cache/pages`, by their code and what it stands on,
so that a page is run again only if one of these has changed.
"""

import concurrent.futures
import functools
import hashlib
import logging
import os
import pathlib
import re
import tempfile
import textwrap
import time
from importlib import metadata

import nbclient
import nbformat
import traitlets.config
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File


ROOT = pathlib.Path(__file__).parents[1]
CACHE = ROOT / ".cache" / "pages"
FENCE = re.compile(
    r"^(?P<indent> *)```python(?P<hidden> hidden)?\n(?P<code>.*?)^(?P=indent)```$",
    re.M | re.S,
)
IMPORT = re.compile(r"^(?:from|import) (\w+)", re.M)
WORKERS = 2  # pages at a time
SECONDS = 900  # for one block
# A page is run again if a file changes in one of these, from which its code imports.
FOLDERS = ["src/eqtangents", "benchmarks", "reproductions"]
VERSIONS = [
    f"{name} {metadata.version(name)}" for name in ("jax", "numpy", "matplotlib")
]
SETUP = (pathlib.Path(__file__).parent / "setup_page.py").read_text()
CLOCK = "import time; print(time.process_time())"
log = logging.getLogger("mkdocs.plugins.execute")


def on_files(files, config):
    """Run all pages, several at a time."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE.parent / "jax"))
    pages = {
        file.src_uri: cells(file.content_string) for file in files.documentation_pages()
    }
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        runs = [
            pool.submit(executed, name, code) for name, code in pages.items() if code
        ]
    failures = [failure for run in runs if (failure := run.exception())]
    if failures:
        raise PluginError("\n\n".join(map(str, failures)))


def on_page_markdown(markdown, page, config, files):
    """Put below each block what it shows."""
    notebook = iter(executed(page.file.src_uri, cells(markdown)))
    figures = 0

    def with_outputs(match):
        nonlocal figures
        parts = [] if match["hidden"] else [match[0]]
        for output in next(notebook):
            if svg := output.get("data", {}).get("image/svg+xml"):
                figures += 1
                name = f"{page.file.src_uri.removesuffix('.md')}-{figures}.svg"
                files.append(File.generated(config, name, content=svg))
                text = f"![Figure {figures}]({pathlib.Path(name).name}){{ .figure }}"
            else:
                text = shown(output)
            parts.append(textwrap.indent(text, match["indent"]))
        return "\n\n".join(part for part in parts if part)

    return FENCE.sub(with_outputs, markdown)


def cells(markdown):
    """The code of each block that is run."""
    found = FENCE.finditer(markdown)
    return tuple(textwrap.dedent(match["code"]) for match in found)


@functools.cache
def executed(page, code):
    """The outputs of each block of a page."""
    if not code:
        return []
    kept = CACHE / f"{key(code)}.ipynb"
    if not kept.exists():
        notebook = run(page, code)
        kept.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, kept)
    return [visible(cell.outputs) for cell in nbformat.read(kept, 4).cells[1:]]


def visible(outputs):
    """Leave out the value of a last line that is a part of the figure."""
    if any(output.output_type == "display_data" for output in outputs):
        return [o for o in outputs if o.output_type != "execute_result"]
    return outputs


def run(page, code):
    """The notebook of these blocks, after it was run."""
    notebook = nbformat.v4.new_notebook()
    cells = [nbformat.v4.new_code_cell(cell) for cell in (SETUP, *code, CLOCK)]
    notebook.cells = cells
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as sockets:
        local = {"transport": "ipc", "ip": f"{sockets}/kernel"}
        client = nbclient.NotebookClient(
            notebook,
            config=traitlets.config.Config(KernelManager=local),
            kernel_name="python3",
            resources={"metadata": {"path": str(ROOT)}},
            startup_timeout=SECONDS,
            timeout=SECONDS,
        )
        try:
            client.execute()
        except nbclient.exceptions.CellExecutionError as error:
            raise PluginError(f"The code of {page} fails: {error}") from None
    seconds, cpu = (
        time.perf_counter() - start,
        float(notebook.cells.pop().outputs[0].text),
    )
    log.info("%s was run in %.0f s, %.0f s of one core", page, seconds, cpu)
    return notebook


def key(code):
    """A name for the code together with all that its outputs depend on."""
    imports = {name for cell in code for name in IMPORT.findall(cell)}
    folders = [folder for folder in FOLDERS if pathlib.Path(folder).name in imports]
    parts = [SETUP, *code, *VERSIONS, *map(contents, folders)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


@functools.cache
def contents(folder):
    """A hash of the files of a folder that programs read."""
    paths = (
        path for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".jsonl"}
    )
    parts = (f"{path.relative_to(ROOT)}\0{path.read_text()}" for path in sorted(paths))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def shown(output):
    """An output that is no figure, as Markdown."""
    if output.output_type == "stream":
        return fenced(output.text) if output.name == "stdout" else ""
    for kind in ("text/markdown", "text/html"):
        if kind in output.data:
            return output.data[kind]
    return fenced(output.data["text/plain"])


def fenced(text):
    """A block of text that is no code."""
    return f"``` {{ .text .output .no-copy }}\n{text.rstrip()}\n```"
