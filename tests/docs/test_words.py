"""The words of docstrings and comments, and the glossary that defines the project's terms."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("llama_router", "bench")
MODULES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
GLOSSARY = ROOT / "docs" / "contributing" / "glossary.md"
TERM = re.compile(r"^- \*\*(.+?)\*\*: (.+)$", re.MULTILINE)

#: Pronouns of persons: sentences with them are usually riddles about a program.
PERSONS = re.compile(r"\b(?:who|whom|whose|whoever|nobody|somebody|anybody|everybody)\b")
MOST_PER_1000 = 1.0

QUESTION = re.compile(r"(?:What|Who|Whom|Whose|Whether|How|Where|When|Why)\b")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(path: Path) -> Iterator[str]:
    """Yield the docstrings and comments of a module, in lower case."""
    source = path.read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield (ast.get_docstring(node) or "").lower()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string.lower()


def words(source: str) -> str:
    """Return *source* in lower case, with the words of each identifier apart."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", source)
    return " ".join(re.sub(r"[\W_]+", " ", apart).lower().split())


def is_question(docstring: str) -> bool:
    """Return whether *docstring* begins as or with a question."""
    return bool(QUESTION.match(docstring)) or "?" in docstring.partition("\n")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_prose_speaks_of_programs(package: str) -> None:
    """Fewer than one word in a thousand of docstrings and comments is a pronoun of persons."""
    text = "\n".join(part for path in (ROOT / package).rglob("*.py") for part in prose(path))
    found = PERSONS.findall(text)
    rate = 1000 * len(found) / len(re.findall(r"[a-z]+", text))
    assert rate < MOST_PER_1000, f"{rate:.1f} per 1,000 words: {len(found)} in {package}"


def test_no_module_docstring_is_a_question() -> None:
    """It names what the module is or does, and does not begin with a question word."""
    docstrings = {name(path): ast.get_docstring(ast.parse(path.read_text())) for path in MODULES}
    assert [module for module, text in docstrings.items() if text and is_question(text)] == []


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("The parts of a router.", False),
        ("Whole files: read at once.", False),
        ("What a client is told.", True),
        ("Is a backend ready? By its own word.", True),
    ],
)
def test_questions_are_found(docstring: str, expected: bool) -> None:  # noqa: FBT001 -- parametrized
    """Question words at the beginning, and question marks in the first line."""
    assert is_question(docstring) is expected


def test_the_glossary_is_in_order() -> None:
    """Its terms are sorted, each occurs once, and each has one line."""
    text = GLOSSARY.read_text()
    terms = [term for term, _ in TERM.findall(text)]
    assert terms == sorted(set(terms), key=str.casefold)
    assert len(terms) == sum(line.startswith("-") for line in text.splitlines())


def test_the_code_uses_the_glossary() -> None:
    """Every term occurs in the package, in an identifier or in prose."""
    code = words("\n".join(path.read_text() for path in (ROOT / "llama_router").rglob("*.py")))
    terms = [term for term, _ in TERM.findall(GLOSSARY.read_text())]
    unused = [term for term in terms if not re.search(rf"\b{re.escape(term)}", code)]
    assert not unused
