"""What makes the site from files that are right on the code host as they are: called by mkdocs.yml.

* README.md, CONTRIBUTING.md and CHANGELOG.md become pages, so their links lose the `docs/` in front.
* Links that leave docs/, such as ../configs/trainer/ddp.yaml, lead to a copy of that file in the site.
* The API reference: one page for each room of the code, whose text is the docstrings.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
COPIES = "files"  # folder of the site for files outside docs/
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")
METHODS = ("lightning_modules", "datamodules", "callbacks")  # what a config names: their exported classes


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the pages of the API."""
    (api,) = [entry for entry in config.nav or [] if "API" in entry]
    api["API"] = [{title: page} for title, page, _ in rooms()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, target in PAGES.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text()))
    for title, page, modules in rooms():
        text = "\n".join(f"::: {module}\n" for module in modules)
        files.append(File.generated(config, page, content=f"# {title}\n\n{text}"))
    origins = {target: source for source, target in PAGES.items()}
    for page in list(files.documentation_pages()):
        for link in LINK.findall(page.content_string):
            path = target_of(link, origins.get(page.src_uri, f"docs/{page.src_uri}"))
            copy = f"{COPIES}/{path}"
            if (
                path not in PAGES
                and not path.startswith("docs/")
                and (ROOT / path).is_file()
                and copy not in files.src_uris
            ):
                files.append(File.generated(config, copy, content=(ROOT / path).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as the site has them; those that lead nowhere are left for mkdocs to name."""
    own = page.file.src_uri
    origin = next((source for source, target in PAGES.items() if target == own), f"docs/{own}")

    def as_on_site(found: re.Match[str]) -> str:
        path = target_of(found[1], origin)
        there = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else f"{COPIES}/{path}")
        known = there in files.src_uris
        return posixpath.relpath(there, posixpath.dirname(own) or ".") if known else found[1]

    return LINK.sub(as_on_site, markdown)


def target_of(link: str, origin: str) -> str:
    """Path from the root of the project of what a link in the file `origin` leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))


def rooms() -> Iterator[tuple[str, str, list[str]]]:
    """Title, page and modules of every room of the code that has something public to say."""
    for room in METHODS:
        yield room, f"api/{room}.md", [room]
    yield "fewstep", "api/fewstep/index.md", modules_in(ROOT / "fewstep")
    for folder in sorted(path for path in (ROOT / "fewstep").iterdir() if (path / "__init__.py").is_file()):
        inner = [path for path in sorted(folder.iterdir()) if (path / "__init__.py").is_file()]
        modules = [module for part in (folder, *inner) for module in modules_in(part)]
        yield f"fewstep.{folder.name}", f"api/fewstep/{folder.name}.md", modules


def modules_in(folder: Path) -> list[str]:
    """Dotted names of the modules of a folder."""
    names = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    return [".".join((*folder.relative_to(ROOT).parts, name)) for name in names]
