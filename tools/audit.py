"""Audit what the package may do and what it is made of: `make check` runs it, without a network.

Nothing in the package unpickles, evaluates text or listens, one module reaches the network, and one
room starts other programs and speaks with them: the ranks of `load(…, hosts=…)`. Every dependency
has a lowest and a highest version, and what is installed is within them; the browser's libraries
are pinned with checksums. Everything that is shipped or required at run time has a licence of the
list below.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "outlier_jupyter"

MODULES = {
    "pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "torch", "pty", "code",
    "multiprocessing", "runpy", "socketserver", "ssl", "http", "ftplib", "smtplib", "xmlrpc",
    "telnetlib", "requests", "urllib3", "aiohttp", "tornado", "zmq",
}  # fmt: skip
"""Modules that the package does not import: they run code or programs, or open connections."""
ONLY_IN = {
    "httpx": {"system/hub.py"},
    "huggingface_hub": {"system/hub.py"},
    "socket": {"distributed/hosts.py", "distributed/launch.py", "distributed/messages.py"},
    "subprocess": {"distributed/launch.py"},
}
"""Modules that reach the network or start programs, each with the only files that import it."""
FUNCTIONS = {"eval", "exec", "compile", "__import__", "breakpoint"}
"""Built-in functions that run text."""
METHODS = {
    "os.system", "popen", "fork", "forkpty", "execv", "execve", "execvp", "spawnv", "posix_spawn",
    "read_pickle", "to_pickle", "urlopen", "urlretrieve", "start_server", "create_server",
    "serve_forever", "listen", "create_connection", "create_subprocess_exec",
    "create_subprocess_shell",
}  # fmt: skip
"""Functions of libraries that do one of these things, by their last name."""
ARGUMENTS = {"shell": True, "allow_pickle": True, "trust_remote_code": True, "weights_only": False}
"""Arguments that no call of the package has as a constant."""
SUSPICIOUS = re.compile(
    rf"(?<![.\w])({'|'.join(map(re.escape, MODULES | {*ONLY_IN, 'urllib'} | FUNCTIONS))})\b"
    rf"|\b({'|'.join(map(re.escape, METHODS | {*ARGUMENTS}))})\b"
)
"""What a file has in it that is parsed; most have nothing of it."""

LICENCES = {
    "0BSD", "Apache 2.0", "Apache 2.0 License", "Apache Software License", "Apache-2.0", "BSD",
    "3-Clause BSD License", "BSD License", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0",
    "CNRI-Python", "ISC", "ISC License (ISCL)", "LLVM-exception", "MIT", "MIT License", "MIT-CMU",
    "MPL-2.0", "Mozilla Public License 2.0 (MPL 2.0)", "PSF-2.0", "Zlib",
}  # fmt: skip
"""Licences that the Apache License 2.0 can be combined with, by the names that projects write."""
INSTALLERS = {"node_modules/esbuild"}
"""The npm packages that may run a script when they are installed."""


def code(file: Path) -> Iterator[str]:
    """What a module of the package does that none may."""
    text = file.read_text()
    tree = ast.parse(text if SUSPICIOUS.search(text) else "")
    name = file.relative_to(PACKAGE).as_posix()
    for node in ast.walk(tree):
        imported = []
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported = [str(node.module)]
        for module in (each.split(".")[0] for each in imported):
            if module in MODULES or name not in ONLY_IN.get(module, {name}):
                yield f"{name}:{node.lineno} imports {module}"
        if any(module.startswith("urllib.request") for module in imported):
            yield f"{name}:{node.lineno} imports urllib.request"
        if isinstance(node, ast.Name) and node.id in FUNCTIONS:
            yield f"{name}:{node.lineno} uses {node.id}"
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute) and METHODS & {
                node.func.attr,
                f"{getattr(node.func.value, 'id', '')}.{node.func.attr}",
            }:
                yield f"{name}:{node.lineno} calls {node.func.attr}"
            for argument in node.keywords:
                if (
                    argument.arg in ARGUMENTS
                    and isinstance(argument.value, ast.Constant)
                    and argument.value.value is ARGUMENTS[argument.arg]
                ):
                    yield f"{name}:{node.lineno} passes {argument.arg}={argument.value.value}"


def requirements(project: dict[str, Any]) -> Iterator[tuple[str, Requirement]]:
    """(where in pyproject.toml, what is required)."""
    groups = {
        "build-system": project["build-system"]["requires"],
        "dependencies": project["project"]["dependencies"],
        **project["project"]["optional-dependencies"],
        **project["dependency-groups"],
    }
    for where, lines in groups.items():
        for line in lines:
            if isinstance(line, str):
                yield where, Requirement(line)


def ranges(project: dict[str, Any]) -> Iterator[str]:
    """Which requirement has no lowest or no highest version, or is not met by what is installed."""
    own = {req.name for where, req in requirements(project) if where == "dependencies"}
    for where, required in requirements(project):
        if required.extras and required.name in own and not required.specifier:
            continue  # `mlx[cpu]` adds to a range that is there
        bounds = {each.operator for each in required.specifier}
        if not bounds & {"==", "~="} and not (">=" in bounds and bounds & {"<", "<="}):
            yield f"pyproject.toml, {where}: {required.name} has no range (>=…,<…)"
        if required.marker is not None and not required.marker.evaluate():
            continue
        try:
            installed = metadata.version(required.name)
        except metadata.PackageNotFoundError:
            if where == "dependencies":
                yield f"{required.name} is not installed: run `make test`"
            continue
        if where == "dependencies" and not required.specifier.contains(installed, prereleases=True):
            yield f"{required.name} {installed} is installed, and pyproject.toml wants {required}"


def runtime(project: dict[str, Any]) -> Iterator[metadata.Distribution]:
    """The installed distributions that a user's installation has, with all extras."""
    extras = set(project["project"]["optional-dependencies"])
    left = [(req, "") for where, req in requirements(project)
            if where in extras | {"dependencies"}]  # fmt: skip
    seen = set()
    while left:
        required, extra = left.pop()
        if required.marker is not None and not required.marker.evaluate({"extra": extra}):
            continue
        try:
            found = metadata.distribution(required.name)
        except metadata.PackageNotFoundError:
            continue  # of another platform, or of an extra that is not installed here
        for wanted in ("", *required.extras):
            if (found.name, wanted) in seen:
                continue
            if not wanted:
                yield found
            seen.add((found.name, wanted))
            left += [(each, wanted) for each in parsed(found.requires or ())]


def parsed(lines: Any) -> list[Requirement]:
    """Requirements from the metadata of another project, without those that are none."""
    found = []
    for line in lines:
        try:
            found.append(Requirement(line))
        except InvalidRequirement:
            continue
    return found


def licence_names(about: Any) -> list[str]:
    """The licences in a distribution's metadata."""
    classifiers = [
        line.split(" :: ")[-1]
        for line in about.get_all("Classifier") or ()
        if line.startswith("License ::") and line != "License :: OSI Approved"
    ]
    text = about.get("License-Expression") or ""
    if not text and classifiers:
        return classifiers
    text = text or (about.get("License") or "").strip().partition("\n")[0]
    return [word.strip(" ()") for word in re.split(r"\b(?:AND|OR|WITH)\b", text)]


def licences(project: dict[str, Any]) -> Iterator[str]:
    """Which distribution's licence is not in the list."""
    for found in runtime(project):
        if bad := sorted(set(licence_names(found.metadata)) - LICENCES):
            yield f"{found.name} {found.version} has the licence {', '.join(bad) or 'of no name'!r}"


def browser(package: dict[str, Any], lock: dict[str, Any]) -> Iterator[str]:
    """What is not pinned in js/package.json and its lock file, or has another licence."""
    wanted = {**package.get("dependencies", {}), **package.get("devDependencies", {})}
    locked = lock["packages"]
    top = {**locked[""].get("dependencies", {}), **locked[""].get("devDependencies", {})}
    if wanted != top:
        yield "package-lock.json is of another package.json: run `npm --prefix js install`"
    for name, version in wanted.items():
        if not re.fullmatch(r"\d+\.\d+\.\d+", version):
            yield f"package.json: {name} {version} is no version"
        elif locked.get(f"node_modules/{name}", {}).get("version") != version:
            yield f"package-lock.json has another version of {name} than {version}"
    for place, entry in locked.items():
        if not place:
            continue
        if not str(entry.get("integrity", "")).startswith("sha512-"):
            yield f"package-lock.json: {place} has no checksum"
        if entry.get("hasInstallScript") and place not in INSTALLERS:
            yield f"package-lock.json: {place} runs a script when it is installed"
        names = re.split(r"\b(?:AND|OR|WITH)\b", entry.get("license", "none"))
        if bad := {name.strip(" ()") for name in names} - LICENCES:
            yield f"package-lock.json: {place} has the licence {', '.join(sorted(bad))}"


def findings() -> list[str]:
    """Everything that is wrong, one sentence each."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    js = [
        json.loads((ROOT / "js" / name).read_text())
        for name in ("package.json", "package-lock.json")
    ]
    found = [each for file in sorted(PACKAGE.rglob("*.py")) for each in code(file)]
    return [*found, *ranges(project), *licences(project), *browser(*js)]


def main() -> int:
    """Print the findings; the exit status is 1 if there are any."""
    found = findings()
    for each in found:
        sys.stderr.write(f"audit: {each}\n")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
