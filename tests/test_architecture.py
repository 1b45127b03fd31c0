"""Imports point down: a module may import only from floors below its own, or from its own folder (without cycles)."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import gptworks

ROOT = Path(gptworks.__file__).parent
FLOORS = [
    {"errors", "messages"},
    {"files", "hub", "devices", "host_memory", "renames", "threads"},
    {"results"},
    {"runs", "processes", "packaged"},
    {"recipe"},
    {"recipefile", "text"},
    {"data", "model"},
    {"train", "generation"},
    {"evaluation", "planning", "exports"},
    {"reports", "serving"},
    {"glue"},
    {"commands"},
    {"cli", "api"},
    {"__main__"},
]
"""The floors up to `recipe` are below everything; the rest is DESIGN's list of floors."""


def modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] != "__init__":
            found[".".join(parts)] = path
    return found


def imports(path: Path, known: set[str], *, for_types: bool = True) -> set[str]:
    """The modules that one imports; with for_types=False, without those under TYPE_CHECKING."""
    names: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if not for_types:
        tree.body = [
            node
            for node in tree.body
            if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("gptworks.") for name in names if name.startswith("gptworks.")} & known


def floor(module: str) -> int:
    top = module.split(".")[0]
    return next(i for i, names in enumerate(FLOORS) if top in names)


def test_every_module_has_a_floor():
    homeless = {m for m in modules() if not any(m.split(".")[0] in names for names in FLOORS)}
    assert not homeless


def test_imports_point_down():
    known = modules()
    wrong = []
    for module, path in known.items():
        for dep in imports(path, known.keys()):
            same_folder = "." in module and module.split(".")[0] == dep.split(".")[0]
            if not same_folder and floor(dep) >= floor(module):
                wrong.append(f"{module} -> {dep}")
    assert not wrong


def test_there_are_no_cycles():
    known = modules()
    TopologicalSorter(
        {m: imports(path, known.keys(), for_types=False) for m, path in known.items()}
    ).prepare()


def test_help_and_reports_need_no_torch():
    code = (
        "import sys, gptworks.cli, gptworks.runs, gptworks.reports.plots, gptworks.reports.page\n"
        "for argv in ([], ['--help'], ['pretrain', '--help'], ['generate', '--help'], ['prepare', '--help'],\n"
        "             ['finetune', 'classify', '--help'], ['finetune', 'instruct', '--help'], ['classify', '--help'],\n"
        "             ['evaluate', '--help'], ['report', '--help'], ['judge', '--help'], ['export', '--help'],\n"
        "             ['chat', '--help'], ['push', '--help'], ['serve', '--help'], ['plan', '--help'],\n"
        "             ['doctor', '--help'], ['glue', '--help'],\n"
        "             ['glue', 'submit', '--help'], ['glue', 'check', '--help'], ['glue', 'plot', '--help']):\n"
        "    gptworks.cli.main(argv)\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
