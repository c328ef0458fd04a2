"""What mkdocs does not do by itself: pages from outside docs/ and of notebooks, links, equations."""

# The tools of the site are an extra of their own.
# pyright: reportMissingImports=false

from __future__ import annotations

import ast
import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
FROM_OUTSIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
SOURCES = {page: source for source, page in FROM_OUTSIDE.items()}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^ *```.*?^ *```)", re.DOTALL | re.MULTILINE)
MATHS = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
REFERENCE = "# Python\n\nThe public names: `from vldistill import NAME`. Anything else may change in any version.\n"


def public_names(package: Path) -> dict[str, str]:
    """Every public name and the module it lives in, as the package's ``__init__.py`` imports them for type checkers."""
    tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {alias.name: str(node.module) for node in imports for alias in node.names if alias.asname == alias.name}


def reference(package: Path) -> str:
    """The page of the public names, for mkdocstrings."""
    return REFERENCE + "".join(f"\n::: {home}.{name}\n" for name, home in sorted(public_names(package).items()))


def notebook_page(name: str, notebook: dict[str, Any]) -> str:
    """A notebook as Markdown: its texts, its code, and what the cells left behind."""
    download = f'<p><a href="../{name}.ipynb" download>This page as a notebook</a></p>'
    title, *parts = [part for cell in notebook["cells"] for part in _cell(cell)]
    return "\n\n".join([title, download, *parts, ""])


def _cell(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        yield _output(output.get("data") or {"text/plain": output.get("text", "")})


def _output(data: dict[str, Any]) -> str:
    """What a cell left, in the richest form there is."""
    if "text/html" in data:
        return f'<div class="output">{"".join(data["text/html"])}</div>'.replace("\n", " ")
    if "image/png" in data:
        picture = "".join(data["image/png"]).replace("\n", "")
        return f'<p class="output"><img alt="figure" src="data:image/png;base64,{picture}"></p>'
    return f"````text\n{''.join(data['text/plain']).rstrip()}\n````"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages whose text is not in docs/, and those of notebooks."""
    from mkdocs.structure.files import File

    for source, page in FROM_OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for path in sorted(Path(config.docs_dir).rglob("*.ipynb")):
        page = path.relative_to(config.docs_dir).with_suffix(".md").as_posix()
        files.append(File.generated(config, page, content=notebook_page(path.stem, json.loads(path.read_bytes()))))
    files.append(File.generated(config, "reference.md", content=reference(ROOT / "src" / "vldistill")))
    return files


def moved(page: str, target: str) -> str | None:
    """A link of a repository's file as a link between pages of the site; None if the site has no such page."""
    source = SOURCES.get(page, f"docs/{page}")
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    there = FROM_OUTSIDE.get(wanted) or (wanted.removeprefix("docs/") if wanted.startswith("docs/") else None)
    there = f"{there.removesuffix('.ipynb')}.md" if there and there.endswith(".ipynb") else there
    return there and posixpath.relpath(there, posixpath.dirname(page) or ".")


def linked(page: str, markdown: str, repository: str | None) -> str:
    """The text with its links changed; one to code leads to the repository, or is left out where none is known."""

    def change(found: re.Match[str]) -> str:
        picture, text, target, anchor = found.groups(default="")
        if there := moved(page, target):
            return f"{picture}[{text}]({there}{anchor})"
        path = posixpath.normpath(posixpath.join(posixpath.dirname(SOURCES.get(page, f"docs/{page}")), target))
        return f"[{text}]({repository.rstrip('/')}/blob/main/{path})" if repository else text

    parts = FENCE.split(markdown)
    return "".join(part if number % 2 else LINK.sub(change, part) for number, part in enumerate(parts))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links of the repository become links of the site."""
    return linked(page.file.src_uri, markdown, config.repo_url)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """TeX becomes MathML, which browsers draw by themselves."""
    from html import unescape

    from latex2mathml.converter import convert

    def draw(found: re.Match[str]) -> str:
        display = found[1] == "div"
        drawn = convert(unescape(found[2]), display="block" if display else "inline")
        return f'<div class="equation">{drawn}</div>' if display else drawn

    return MATHS.sub(draw, html)
