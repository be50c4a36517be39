"""Pages of backends, merged into one: families once, each sample with its model. Pure.

A backend may be any program, so what is no valid line is left out, and nothing that one of them
says spoils the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from .exposition import escaped

_NAME: Final = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_HELP: Final = re.compile(rf"# HELP ({_NAME}) (.*)")
_TYPE: Final = re.compile(rf"# TYPE ({_NAME}) (counter|gauge|histogram|summary|untyped)")
_SAMPLE: Final = re.compile(
    rf"({_NAME})(?:[ \t]*\{{(.*)\}}[ \t]*|[ \t]+)([^ \t{{}}]+)(?:[ \t]+-?[0-9]+)?"
)
_LABEL: Final = re.compile(
    r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\[\\"n])*)"[ \t]*(,|$)'
)
_VALUE: Final = re.compile(
    r"[+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[Ii]nf|[Ii]nfinity)|NaN|nan"
)

_BACKSLASH: Final = re.compile(r"\\(\\|n)?")

#: Samples of a histogram or a summary are those of a family with a shorter name.
_SUFFIXES: Final = {
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("_sum", "_count"),
}

#: Families of all backends together, and samples of one backend; the rest is left out.
MAX_FAMILIES: Final = 2000
MAX_SAMPLES: Final = 10_000

#: The label that the router adds. A label of that name that the backend gives is renamed, as
#: Prometheus itself does with labels of a target.
MODEL_LABEL: Final = "model"
_RENAMED: Final = "exported_model"

#: Prefixes of the families of the router and its process. A family that is there twice makes a
#: page invalid.
_OWN: Final = ("llama_router_", "process_")


@attrs.define(eq=False)
class _Family:
    kind: str = "untyped"
    help: str = ""
    lines: list[str] = attrs.field(factory=list)
    series: set[str] = attrs.field(factory=set)


def merge(pages: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield the merged page, family by family.

    Where backends disagree on the type of a family, it is that of the first one, and samples of
    another shape are left out.

    Args:
        pages: The id of each model, and the page of its backend.
    """
    families: dict[str, _Family] = {}
    for model, page in pages:
        _take_in(families, f'{MODEL_LABEL}="{escaped(model)}"', page)
    for name, family in families.items():
        if not family.lines:
            continue
        about = f"# HELP {name} {family.help}\n" if family.help else ""
        yield f"{about}# TYPE {name} {family.kind}\n" + "".join(family.lines)


def _take_in(families: dict[str, _Family], model: str, page: str) -> None:
    kinds: dict[str, str] = {}  # as this backend says
    left = MAX_SAMPLES
    for line in page.split("\n"):
        if line.startswith("#"):
            if (found := _TYPE.fullmatch(line.rstrip())) is not None:
                kinds[found[1]] = found[2]
                family = _family(families, found[1])
                if family is not None and not family.lines:
                    family.kind = found[2]
            elif (found := _HELP.fullmatch(line)) is not None:
                family = _family(families, found[1])
                if family is not None and not family.help:
                    family.help = _tidy(found[2])
            continue
        if left <= 0:
            return
        if (sample := _SAMPLE.fullmatch(line.strip())) is not None:
            left -= 1
            _add(families, kinds, model, sample)


def _add(
    families: dict[str, _Family], kinds: dict[str, str], model: str, sample: re.Match[str]
) -> None:
    name, value = sample[1], sample[3]
    tags = _labels(sample[2] or "")
    if tags is None or _VALUE.fullmatch(value) is None:
        return
    owner = _owner(name, kinds)
    family = _family(families, owner)
    kind = kinds.get(owner, "untyped")
    if family is None or (family.lines and family.kind != kind):
        return
    if not family.lines:
        family.kind = kind
    series = f"{name}{{{','.join((model, *tags))}}}"
    if series not in family.series:
        family.series.add(series)
        family.lines.append(f"{series} {value}\n")


def _owner(name: str, kinds: dict[str, str]) -> str:
    """Return the name of the family that the sample *name* belongs to."""
    for kind, suffixes in _SUFFIXES.items():
        for suffix in suffixes:
            if name.endswith(suffix) and kinds.get(name.removesuffix(suffix)) == kind:
                return name.removesuffix(suffix)
    return name


def _family(families: dict[str, _Family], name: str) -> _Family | None:
    """Return the family *name*; None if there may be no such one, or no more."""
    if name.startswith(_OWN):
        return None
    family = families.get(name)
    if family is None and len(families) < MAX_FAMILIES:
        family = families[name] = _Family()
    return family


def _labels(text: str) -> list[str] | None:
    """Return the labels in *text*, in their order; None if it is not valid."""
    found: dict[str, str] = {}
    at, text = 0, text.strip()
    while at < len(text):
        label = _LABEL.match(text, at)
        if label is None:
            return None
        name = _RENAMED if label[1] == MODEL_LABEL else label[1]
        if name in found:
            return None
        found[name] = label[2]
        at = label.end()
    return [f'{name}="{value}"' for name, value in found.items()]


def _tidy(text: str) -> str:
    """Return the text of a help line; a backslash that escapes nothing is escaped."""
    return _BACKSLASH.sub(lambda found: found[0] if found[1] else r"\\", text.strip())
