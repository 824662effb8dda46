"""C built for this machine's own processor, once, and kept: the simulators' kernels and the planner's."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fopenmp-simd")


class CompilerError(Exception):
    """No C compiler, or one that cannot build the kernel."""


@cache
def threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="kernel")


def build(source: str) -> Path:
    """The shared object of a source, from the cache or the compiler. It is built for this machine's own processor."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        raise CompilerError("no C compiler (cc) on the PATH")
    kind = _run([compiler, "-march=native", "-dM", "-E", "-x", "c", os.devnull])
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "homeostat" / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as e:
        raise CompilerError(f"{folder} cannot be written: {e}") from e
    simd = '__attribute__((__simd__("notinbranch")))'
    for vector_math in (True, False):  # without a vector mathematics library: the same, with scalar exp and log
        text = f"#define SIMD {simd if vector_math else ''}\n{source}"
        target = folder / f"{hashlib.sha256((kind + text + ' '.join(FLAGS)).encode()).hexdigest()[:32]}.so"
        if target.exists():
            return target
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            code, built = Path(scratch) / "kernel.c", Path(scratch) / "kernel.so"
            code.write_text(text)
            libraries = ["-lmvec", "-lm"] if vector_math else ["-lm"]
            try:
                _run([compiler, *FLAGS, "-shared", "-fPIC", "-o", str(built), str(code), *libraries])
                ctypes.CDLL(str(built))
            except (CompilerError, OSError) as e:
                if not vector_math:
                    raise CompilerError(str(e)) from e
                continue
            os.replace(built, target)
            return target
    raise AssertionError


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompilerError(f"{command[0]} failed: {done.stderr.strip()[:500]}")
    return done.stdout
