"""The parameters of a class or function, read from its source and never imported.

``inspect.signature`` needs the import, and torch with lightning and timm takes 5 to 15 seconds: too
long to wait for "no parameter 'momentm'". So the source is parsed instead; what cannot be found that
way (a compiled module, a generated class) is imported after all.
"""

import ast
import importlib
import importlib.util
import inspect
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple


class Parameter(NamedTuple):
    """One parameter: is it required, its annotation as source text, and the module that text is from."""

    required: bool
    annotation: str | None = None
    module: str = ""


class Signature(NamedTuple):
    """The named parameters, and whether any other name is taken too (``**kwargs``)."""

    parameters: dict[str, Parameter]
    open: bool


class TargetError(ValueError):
    """The dotted path leads nowhere."""


@lru_cache(maxsize=256)
def signature(target: str) -> Signature:
    """The signature of the class or function at the dotted path ``target``; raises TargetError."""
    found = _definition(target)
    if found is None:
        return _imported(target)
    node, module = found
    if isinstance(node, ast.ClassDef):
        return _of_class(node, module) or _imported(target)
    return _of_function(node, module, skip=0)


def class_module(target: str) -> str | None:
    """The module whose source defines the class at the dotted path; None where the path leads to no class."""
    found = _definition(target)
    return found[1] if found and isinstance(found[0], ast.ClassDef) else None


def alias(module: str, name: str) -> tuple[str, str] | None:
    """What ``name`` stands for in ``module`` (``Norm = Literal[...]``): its source text and module."""
    found = _lookup(module, name, set())
    if found and isinstance(found[0], ast.Assign):
        return ast.unparse(found[0].value), found[1]
    return None


@lru_cache(maxsize=1024)
def _file(module: str) -> Path | None:
    """The source file of a module, found without importing its packages."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for place in spec.submodule_search_locations or []:
        base = Path(place, *rest)
        for path in (base / "__init__.py", base.with_suffix(".py")):
            if path.is_file():
                return path
    return None


@lru_cache(maxsize=1024)
def _statements(module: str) -> tuple[ast.stmt, ...]:
    """The top-level statements of a module, those under ``if`` and ``try`` among them."""
    path = _file(module)
    if path is None:
        return ()
    found, waiting = [], list(ast.parse(path.read_text(encoding="utf-8")).body)
    while waiting:
        statement = waiting.pop(0)
        if isinstance(statement, ast.If | ast.Try):
            waiting[:0] = [s for s in ast.iter_child_nodes(statement) if isinstance(s, ast.stmt)]
        else:
            found.append(statement)
    return tuple(found)


def _definition(target: str) -> tuple[ast.ClassDef | ast.FunctionDef, str] | None:
    """The class or function a dotted path names, and the module that holds it."""
    module, _, name = target.rpartition(".")
    if not module or _file(module) is None:
        return None
    found = _lookup(module, name, set())
    return found if found and not isinstance(found[0], ast.Assign) else None  # type: ignore[return-value]


def _lookup(
    module: str, name: str, seen: set
) -> tuple[ast.ClassDef | ast.FunctionDef | ast.Assign, str] | None:
    """Finds ``name`` in ``module``, through re-exports (``from .x import y``, ``import *``)."""
    if (module, name) in seen:
        return None
    seen.add((module, name))
    stars = []
    for statement in reversed(_statements(module)):
        if isinstance(statement, ast.ClassDef | ast.FunctionDef) and statement.name == name:
            return statement, module
        if isinstance(statement, ast.Assign) and [ast.unparse(t) for t in statement.targets] == [name]:
            return statement, module
        if isinstance(statement, ast.ImportFrom):
            source = _absolute(statement, module)
            for alias in statement.names:
                if alias.name == "*":
                    stars.append(source)
                elif (alias.asname or alias.name) == name:
                    return _lookup(source, alias.name, seen)
    for source in stars:
        found = _lookup(source, name, seen)
        if found:
            return found
    return None


def _absolute(statement: ast.ImportFrom, module: str) -> str:
    if not statement.level:
        return statement.module or ""
    path = _file(module)
    parts = module.split(".")
    drop = statement.level - (1 if path is not None and path.name == "__init__.py" else 0)
    base = parts[: len(parts) - drop]
    return ".".join([*base, *([statement.module] if statement.module else [])])


def _of_class(node: ast.ClassDef, module: str) -> Signature | None:
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            own = _of_function(statement, module, skip=1)
            base = _of_bases(node, module) if own.open and _hands_on(statement) else None
            return Signature({**base.parameters, **own.parameters}, base.open) if base else own
    if any("dataclass" in ast.unparse(d) for d in node.decorator_list):
        fields = [s for s in node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)]
        return Signature(
            {s.target.id: Parameter(s.value is None, ast.unparse(s.annotation), module) for s in fields},  # type: ignore[union-attr]
            open=False,
        )
    return _of_bases(node, module)


def _of_bases(node: ast.ClassDef, module: str) -> Signature | None:
    for base in node.bases:
        if isinstance(base, ast.Name):
            found = _lookup(module, base.id, set())
            if found and isinstance(found[0], ast.ClassDef):
                inherited = _of_class(found[0], found[1])
                if inherited:
                    return inherited
        elif isinstance(base, ast.Attribute):
            return None  # `nn.Module`, `abc.Base`: leave it to the import
    return None


def _hands_on(function: ast.FunctionDef) -> bool:
    """Whether ``**kwargs`` goes on to ``super().__init__``, whose parameters then count too."""
    kwargs = function.args.kwarg
    return kwargs is not None and any(
        isinstance(call, ast.Call)
        and ast.unparse(call.func) == "super().__init__"
        and any(k.arg is None and ast.unparse(k.value) == kwargs.arg for k in call.keywords)
        for call in ast.walk(function)
    )


def _of_function(node: ast.FunctionDef, module: str, skip: int) -> Signature:
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    required = len(positional) - len(arguments.defaults)
    parameters = {
        a.arg: Parameter(i < required, _text(a.annotation), module)
        for i, a in enumerate(positional)
        if i >= skip
    }
    for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parameters[a.arg] = Parameter(default is None, _text(a.annotation), module)
    return Signature(parameters, open=arguments.kwarg is not None)


def _text(annotation: ast.expr | None) -> str | None:
    return ast.unparse(annotation) if annotation else None


def _imported(target: str) -> Signature:
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise TargetError(f"`{target}` cannot be found: {error}") from None
    kinds = inspect.Parameter
    given = inspect.signature(found).parameters.values()
    return Signature(
        {
            p.name: Parameter(p.default is kinds.empty)
            for p in given
            if p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
        },
        open=any(p.kind is kinds.VAR_KEYWORD for p in given),
    )
