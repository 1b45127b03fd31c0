"""`python -m tests.other_platform win32|darwin FOLDER`: gptworks without what only Linux has, or only POSIX.

Modules that the platform lacks cannot be imported, os and signal lack their functions, and /proc and /sys are gone, for
gptworks alone: other packages are imported first, and keep what they have. It imports every module and goes from text
to generated text.
"""

import builtins
import ctypes
import fcntl
import importlib
import os
import pkgutil
import signal
import sys
import types
from pathlib import Path

import cyclopts
import rich.console
import tokenizers
import torch._dynamo
from matplotlib import pyplot

import gptworks

PREPARED = (cyclopts, rich.console, tokenizers, torch, pyplot)

MODULES = {
    "win32": ("fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"),
    "darwin": ("ossaudiodev", "spwd"),
}
FUNCTIONS = {
    "win32": (
        "fchmod", "fork", "geteuid", "getpgid", "getuid", "killpg", "sched_getaffinity", "setsid", "statvfs", "sysconf",
        "uname",
    ),
    "darwin": ("sched_getaffinity",),
}  # fmt: skip
SIGNALS = {
    "win32": ("SIGALRM", "SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "pthread_kill", "pthread_sigmask"),
    "darwin": (),
}


class Without(types.ModuleType):
    """A module that lacks some names and has others."""

    def __init__(self, module, lacks=(), **others):
        super().__init__(module.__name__)
        self.__dict__.update(others)
        self._module, self._lacks = module, lacks

    def __getattr__(self, name):
        if name in self._lacks:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self._module, name)


def windows_lock(handle, mode, n):
    assert (mode, n) == (2, 1)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


MSVCRT = Without(types.ModuleType("msvcrt"), LK_NBLCK=2, locking=windows_lock)


def importing(platform):
    """An `__import__` by which gptworks finds the platform's modules, and everybody else what is there."""
    real = builtins.__import__

    def find(name, globals=None, *args, **kwargs):
        if str((globals or {}).get("__name__")).startswith("gptworks"):
            if name in MODULES[platform]:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            if name == "msvcrt" and platform == "win32":
                return MSVCRT
        return real(name, globals, *args, **kwargs)

    return find


def hide(platform):
    """Make this process look like one on another platform, to gptworks."""
    builtins.__import__ = importing(platform)
    for name in ("read_text", "open", "exists", "is_file"):
        setattr(Path, name, without_proc(getattr(Path, name)))
    real = ctypes.CDLL

    def cdll(name, *args, **kwargs):
        if name == "libc.so.6":
            raise OSError("libc.so.6: cannot open shared object file")
        return real(name, *args, **kwargs)

    others = {
        "os": Without(os, FUNCTIONS[platform], name="nt" if platform == "win32" else "posix"),
        "sys": Without(sys, platform=platform),
        "signal": Without(signal, SIGNALS[platform]),
        "ctypes": Without(ctypes, CDLL=cdll),
    }
    for module in pkgutil.walk_packages(gptworks.__path__, "gptworks."):
        if not module.name.endswith("__main__"):
            loaded = importlib.import_module(module.name)
            for name in others.keys() & vars(loaded).keys():
                setattr(loaded, name, others[name])


def without_proc(method):
    def look(path, *args, **kwargs):
        if str(path).startswith(("/proc", "/sys")):
            if method.__name__ in {"exists", "is_file"}:
                return False
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return method(path, *args, **kwargs)

    return look


def main(platform, folder):
    hide(platform)
    from gptworks import files
    from gptworks.cli import main as gptworks_main

    assert files.os.name == ("nt" if platform == "win32" else "posix")

    os.chdir(folder)
    Path("text.txt").write_text("the cat sat on the mat and saw it. " * 400)
    shape = "--model.n-layer 1 --model.n-head 2 --model.n-embd 16 --model.context 32"
    steps = "--train.max-steps 4 --train.batch-tokens 128 --train.compile off --eval.every 2"
    for line in (
        "--help",
        "doctor",
        "tokenizer train --sources text.txt --vocab-size 270 --out bpe",
        "prepare --sources text.txt --tokenizer bpe --out dataset --val-fraction 0.1 --workers 1",
        f"pretrain --data dataset --out run {shape} {steps}",
        "pretrain --out run --resume --train.max-steps 6",
        "generate run --max-tokens 4",
        "plan tiny-shakespeare --tokenizer bpe",
        "report run",
    ):
        status = gptworks_main(line.split())
        assert status == 0, f"`gptworks {line}` ended with {status}"


if __name__ == "__main__":
    main(*sys.argv[1:])
