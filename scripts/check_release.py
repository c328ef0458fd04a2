"""Refuses a release that does not fit together: ``python scripts/check_release.py vX.Y.Z``, after ``make wheel``."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ADDRESSES = ("Source", "Issues", "Documentation", "Changelog")


def text_of(root: Path, name: str) -> str:
    """A file of the checkout."""
    return (root / name).read_text(encoding="utf-8")


def versions(root: Path) -> dict[str, str]:
    """The version that each file says."""
    code = re.search(r'__version__ = "(.+)"', text_of(root, "src/vldistill/version.py"))
    citation = re.search(r"^version: (.+)$", text_of(root, "CITATION.cff"), re.MULTILINE)
    found = {"src/vldistill/version.py": code, "CITATION.cff": citation}
    return {name: match[1] if match else "none" for name, match in found.items()}


def wrong_versions(root: Path, tag: str) -> list[str]:
    """What does not say the version of the tag."""
    if not re.fullmatch(r"v\d+\.\d+\.\d+(rc\d+)?", tag):
        return [f"the tag is {tag!r}, expected vX.Y.Z or vX.Y.ZrcN"]
    wanted = tag.removeprefix("v")
    wrong = [f"{name} says version {has}, the tag {wanted}" for name, has in versions(root).items() if has != wanted]
    if f"\n## {wanted}\n" not in text_of(root, "CHANGELOG.md"):
        wrong.append(f"CHANGELOG.md has no heading '## {wanted}'")
    return wrong


def missing_addresses(root: Path) -> list[str]:
    """Addresses without which a reader of the package's page finds nothing."""
    urls = tomllib.loads(text_of(root, "pyproject.toml"))["project"]["urls"]
    wrong = [f"[project.urls] of pyproject.toml has no {name}" for name in ADDRESSES if name not in urls]
    if "\nrepository-code: " not in text_of(root, "CITATION.cff"):
        wrong.append("CITATION.cff has no repository-code")
    return wrong


def wrong_files(root: Path, tag: str) -> list[str]:
    """What of the wheel and the sdist is missing in dist/, or is there of another version."""
    stem = f"vldistill-{tag.removeprefix('v')}"
    wanted = {f"{stem}-py3-none-any.whl", f"{stem}.tar.gz"}
    there = {path.name for path in (root / "dist").glob("*")}
    missing = [f"dist/ has no {name}: run `make wheel`" for name in sorted(wanted - there)]
    return missing + [f"dist/ has {name}, which is not of this release" for name in sorted(there - wanted)]


def uncommitted(root: Path, tag: str) -> list[str]:
    """Whether the checkout is the tag's."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    wrong = ["the checkout has changes that are not committed"] if git("status", "--porcelain") else []
    if git("rev-parse", "HEAD") != git("rev-parse", "--verify", "--quiet", f"{tag}^{{commit}}"):
        wrong.append(f"the checkout is not at the tag {tag}")
    return wrong


def main(words: list[str] | None = None, root: Path = ROOT) -> int:
    """Prints all that is wrong; 0 if nothing is."""
    given = sys.argv[1:] if words is None else words
    if len(given) != 1:
        print("use: python scripts/check_release.py vX.Y.Z")
        return 2
    (tag,) = given
    wrong = wrong_versions(root, tag) + missing_addresses(root) + wrong_files(root, tag) + uncommitted(root, tag)
    print(*(wrong or [f"{tag} fits together; publish as RELEASING.md says"]), sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
