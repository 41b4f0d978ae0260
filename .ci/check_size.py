"""List files and functions that are too long, and mentions of TYPE_CHECKING; exit 1 if there are any.

The limits: 500 lines a file, 60 a function, 3 mentions in bpfast.

Docstrings do not count for functions. Python is parsed; Cython and C are read by simple rules: a Cython
function ends at the next line that is not indented deeper than its `def` or `cdef`, and a C function begins
at a line without indentation and ends at a brace in the first column.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("bpfast", "src", "tests", "benchmarks", ".ci")
MOST_LINES, MOST_FUNCTION_LINES, MOST_TYPE_CHECKING = 500, 60, 3
SUFFIXES = {".py", ".pyi", ".pyx", ".pxd", ".pxi", ".h", ".c"}
#: "path" or "path: function" → why it may be longer.
EXCEPTIONS: dict[str, str] = {}
DEFINITION = re.compile(r"(?:def|cpdef|cdef(?! class| extern| struct))\b[^=]*?(\w+)\(")
C_DEFINITION = re.compile(r"(?!typedef|struct|enum|union)[a-zA-Z_][^;=]*?\b(\w+)\(")
DOCSTRING = re.compile(r'^[ \t]*[rR]?("""|\'\'\')(?:.*?)\1[ \t]*$', re.MULTILINE | re.DOTALL)

Function = tuple[str, int, int]  # name, first line, number of lines


def python_functions(text: str) -> Iterator[Function]:
    """The functions of a Python module, inner ones too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node, clean=False) is not None:
                docstring = node.body[0]
                lines -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
            yield node.name, node.lineno, lines


def cython_functions(text: str) -> Iterator[Function]:
    """The functions of a Cython module, by indentation."""
    lines = text.splitlines()
    for index, line in enumerate(lines):
        code = line.lstrip()
        found = DEFINITION.match(code)
        if found is None:
            continue
        header = index
        while header < len(lines) - 1 and not re.search(r":\s*(#.*)?$", lines[header]):
            header += 1
        if any(re.match(r"\s*(def|cdef|cpdef)\b", lines[k]) for k in range(index + 1, header + 1)):
            continue  # a declaration, without a body
        last = header
        for k in range(header + 1, len(lines)):
            if lines[k].strip():
                if len(lines[k]) - len(lines[k].lstrip()) <= len(line) - len(code):
                    break
                last = k
        body = "\n".join(lines[header + 1 : last + 1])
        docstring = DOCSTRING.match(body)
        hidden = docstring[0].count("\n") + 1 if docstring else 0
        yield found[1], index + 1, last - index + 1 - hidden


def c_functions(text: str) -> Iterator[Function]:
    """The functions of a C file, and its macros of several lines, by their braces and backslashes."""
    name, start = "", 0
    macro = 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#define") and line.endswith("\\") and not macro:
            macro = number
            title = line.split()[1].split("(")[0]
        if macro and not line.endswith("\\"):
            yield title, macro, number - macro + 1
            macro = 0
        found = C_DEFINITION.match(line)
        if found:
            name, start = found[1], number
        if line.startswith("}") and start:
            yield name, start, number - start + 1
            start = 0


def functions(path: Path, text: str) -> Iterator[Function]:
    """The functions of a file."""
    if path.suffix in {".py", ".pyi"}:
        return python_functions(text)
    return c_functions(text) if path.suffix in {".h", ".c"} else cython_functions(text)


def offenders(path: Path) -> Iterator[tuple[str, str]]:
    """What is too long in a file, as pairs (name in `EXCEPTIONS`, message)."""
    name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    if (count := len(text.splitlines())) > MOST_LINES:
        yield name, f"{name}: {count} lines; at most {MOST_LINES}"
    for function, line, count in functions(path, text):
        if count > MOST_FUNCTION_LINES:
            message = f"{name}:{line}: {function} has {count} lines; at most {MOST_FUNCTION_LINES}"
            yield f"{name}: {function}", message


def main() -> int:
    """Print what is too long, and exceptions that are not needed."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    found = [pair for path in sorted(files) for pair in offenders(path)]
    messages = [message for name, message in found if name not in EXCEPTIONS]
    messages += [
        f"EXCEPTIONS: {name} is not needed" for name in set(EXCEPTIONS) - {name for name, _ in found}
    ]
    mentions = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted((ROOT / "bpfast").rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if "TYPE_CHECKING" in line
    ]
    if len(mentions) > MOST_TYPE_CHECKING:
        messages.append(f"TYPE_CHECKING: {len(mentions)} lines in bpfast; at most {MOST_TYPE_CHECKING}")
    print("\n".join(messages) or "sizes: all within the limits")
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main())
