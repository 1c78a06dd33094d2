"""Makes a page of each module in `reproductions/`: its claim, its figure, its findings.

A module has `CLAIM` and `SOURCE`, a docstring that is the page's text, `run(size)`,
`check(result)`, which returns what was expected and what was found, and `draw(result)`.
Nothing is imported here: the page has the code, and is run like any other one.
"""

import ast
import os
import pathlib

from mkdocs.structure.files import File


FOLDER = pathlib.Path(__file__).parents[1] / "reproductions"
# `REPRODUCTIONS=page mkdocs build` takes the sizes that are published.
SIZE = os.environ.get("REPRODUCTIONS", "small")
INDEX = """# Reproductions

What papers claim, repeated by short programs. Each asserts its findings, and the tests
have it do so for settings that are drawn. Its page has the figure, what the paper says
and what was found; `python -m reproductions` prints all findings, and the seconds that
each took. They need `python -m pip install ".[reproductions]"`, in a clone.

| Paper | Claim |
|---|---|
"""
PAGE = """# {title}

> {claim}
>
> {source}

{text}

```python
from reproductions import {name}


result = {name}.run("{size}")
```

```python hidden
{name}.draw(result)
```

## Findings

Each is asserted, with this tolerance. Of several numbers, the one that is farthest off
is shown.

```python hidden
from IPython.display import Markdown

rows = [f"| {{f.claim}} | {{f.expected}} | {{f.ours}} |" for f in {name}.check(result)]
Markdown("\\n".join(["| | Paper, tolerance | Ours |", "|---|---|---|", *rows]))
```

## Program

`python -m reproductions.{name}` runs it, and saves the figure.

??? example "reproductions/{name}.py"

    ```py
    --8<-- "reproductions/{name}.py"
    ```
"""


def on_config(config):
    """Add the pages to the navigation, before the API."""
    names = [f"reproductions/{path.stem}.md" for path in modules()]
    if names:
        section = {"Reproductions": ["reproductions/index.md", *names]}
        config.nav.insert(-1, section)
    return config


def on_files(files, config):
    """Add the pages, and one that lists them."""
    index = INDEX
    for path in modules():
        about = description(path)
        content = PAGE.format(**about, name=path.stem, size=SIZE)
        name = f"reproductions/{path.stem}.md"
        files.append(File.generated(config, name, content=content))
        index += f"| [{about['source']}]({path.stem}.md) | {about['claim']} |\n"
    if modules():
        files.append(File.generated(config, "reproductions/index.md", content=index))


def modules():
    """The programs, in order of their names."""
    return sorted(path for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def description(path):
    """The parts of a page that the module states."""
    tree = ast.parse(path.read_text())
    constants = {
        name: ast.literal_eval(value)
        for node in tree.body
        for name, value in assigned(node)
        if name in {"CLAIM", "SOURCE"}
    }
    title, _, text = ast.get_docstring(tree).partition("\n\n")
    title = " ".join(title.split()).removesuffix(".")
    parts = {"title": title, "text": text}
    return parts | {"claim": constants["CLAIM"], "source": constants["SOURCE"]}


def assigned(node):
    """The name and the value, if a statement assigns one value to one name."""
    match node:
        case ast.Assign(targets=[ast.Name(name)], value=value):
            yield name, value
