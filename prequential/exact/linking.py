"""Loops compiled once each: only what Python calls, or what is marked, becomes machine code.

numba compiles every function as if Python called it: it wraps it for Python and for C, optimises
it, makes machine code of it, and then links it into all its callers, where it is optimised again. A
package of a hundred small loops that call one another takes two minutes so. Here an inner loop is
only linked, as it was lowered, into the loops that Python calls, which are optimised as a whole.

A loop that is marked `apart` is not linked either: its callers, of other processes too, call the
machine code that it has in numba's cache. Symbols of such loops are the same in every process, and
whatever is loaded from the cache loads first what it calls.

Nothing here changes what is computed, and where it is missing, as in self-extracting files, loops
are compiled as numba does it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numba
from numba.core import sigutils, types
from numba.core.caching import (
    CacheImpl,
    CompileResultCacheImpl,
    FunctionCache,
    InTreeCacheLocator,
    UserWideCacheLocator,
)
from numba.core.codegen import JITCodeLibrary, RuntimeLinker
from numba.core.compiler import Compiler
from numba.core.compiler_lock import global_compiler_lock
from numba.core.environment import lookup_environment
from numba.core.registry import CPUDispatcher

from prequential import system

_PATIENCE_S, _LOOK_S = 120, 0.1  # with another process that compiles the same

if hasattr(os, "register_at_fork"):
    # A fork waits for what another thread compiles: in the child that one's locks would stay taken.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )


class Load(NamedTuple):
    """Sees to it that a loop's machine code is there: what its callers in the cache do first."""

    module: str
    name: str
    signature: tuple[Any, ...]

    def __call__(self) -> None:
        """From the cache, or else compile it."""
        getattr(import_module(self.module), self.name).compile(self.signature)


class Library(JITCodeLibrary):
    """The code of one function; once it is finalized, with that of all that it calls.

    An inner one never is, unless a foreign caller links it.
    """

    inner = True
    load: Load | None = None  # of a loop apart

    def add_linking_library(self, library: Any) -> None:
        """Remember what is called, which need not be finalized."""
        self._linking_libraries.append(library)

    def get_pointer_to_function(self, name: str) -> Any:
        """An inner function has no machine code."""
        if self.inner and not self._finalized:
            return 0
        return super().get_pointer_to_function(name)

    @property
    def codegen(self) -> Any:
        """What is told where a function's environment is."""
        return self._codegen if self._finalized else self

    def set_env(self, *_: Any) -> None:
        """An inner function's environment is set where it is linked."""

    def finalize(self) -> None:
        """Link all that is called, optimise it as a whole, and make machine code."""
        self._raise_if_finalized()
        for library in reversed(self._called({})):
            self._reload_init |= library._reload_init
            if not isinstance(library, Library) or library._finalized:
                self._final_module.link_in(library._get_module_for_linking(), preserve=True)
            else:
                self._final_module.link_in(library.copy())
        for symbol in self._final_module.global_variables:
            if symbol.name.startswith(RuntimeLinker.PREFIX):
                raise NotImplementedError(
                    f"{symbol.name}: a loop that calls itself is not kept whole"
                )
        self._optimize_final_module()
        self._final_module.verify()
        self._finalize_final_module()
        for variable in self._final_module.global_variables:
            environment = lookup_environment(variable.name)
            if environment is not None:
                self._codegen.set_env(variable.name, environment)

    def _called(self, found: dict[Any, None]) -> dict[Any, None]:
        """The libraries of all that is called and linked, through inner functions.

        Callers stand behind what they call. They are linked first, since what nobody has asked for
        yet would be left out; a caller may have dropped its only call, in a branch never taken.
        """
        for library in self._linking_libraries:
            if isinstance(library, Library) and library.load is not None:
                self._reload_init.add(library.load)
            elif library not in found:
                found[library] = None
                if isinstance(library, Library) and not library._finalized:
                    library._called(found)
                found[library] = found.pop(library)
        return found

    def copy(self) -> Any:
        """An inner function's module, of which each caller may link a copy."""
        module = self._final_module.clone()
        for function in module.functions:
            if not function.is_declaration and function.linkage.name == "external":
                function.linkage = "linkonce_odr"
        return module


class _State:
    """What is being compiled, under numba's lock: how deep in callers, and how."""

    depth = 0
    inner = apart = False


class _Compiler(Compiler):
    """numba's, with the choice of where a loop's code goes, and what is made of it."""

    def _compile_bytecode(self) -> Any:
        state, inner = self.state, _State.inner
        state.library = Library(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        state.library.inner = inner
        if _State.apart:
            state.func_id.unique_id = 0  # a part of the symbol's name, else counted
        state.flags.no_cfunc_wrapper = True
        state.flags.no_cpython_wrapper = inner
        return super()._compile_bytecode()


class Temporary(UserWideCacheLocator):
    """The last resort: a folder of this user's alone in that for temporary files."""

    def get_cache_path(self) -> str:
        """The folder for the loops of this file."""
        folder = Path(tempfile.gettempdir(), f"prequential-{system.USER}")
        return str(folder / self.get_suitable_cache_subpath(self._py_file))

    def ensure_cache_path(self) -> None:
        """Make it, and see that nobody else could have written there what is loaded from it."""
        folder = Path(self.get_cache_path()).parent
        folder.mkdir(0o700, parents=True, exist_ok=True)
        status = folder.lstat()
        if status.st_uid != system.USER or status.st_mode & 0o170077 != 0o040000:
            raise PermissionError(f"{folder}: is not a folder of this user alone")
        super().ensure_cache_path()


class _Kept(CompileResultCacheImpl):
    """Where machine code is kept."""

    @property
    def _locator_classes(self) -> list[Any]:
        return [*CacheImpl._locator_classes, Temporary]


class _Installed(CompileResultCacheImpl):
    """Where the package is, which need not be writable."""

    class _Beside(InTreeCacheLocator):
        def ensure_cache_path(self) -> None:
            pass  # nothing is written

    _locator_classes = (_Beside,)


class _InstalledCache(FunctionCache):
    _impl_class = _Installed


class _Cache(FunctionCache):
    """numba's cache of one loop; of processes that miss the same in it, one compiles."""

    _impl_class = _Kept

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._installed = _InstalledCache(function)
        self._lock: Any = None

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What is kept for a signature, if anything; until `unlock`, nobody else compiles it."""
        found = super().load_overload(sig, target_context)
        if found is None and not numba.config.CACHE_DIR:
            found = self._installed.load_overload(sig, target_context)
        if found is None and not _State.inner and self._wait():
            found = super().load_overload(sig, target_context)
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep it, unless it is only linked into others."""
        if data.library._finalized:
            super().save_overload(sig, data)

    def _wait(self) -> bool:
        """Wait for another process that is at this loop; whether there was one."""
        if self._lock is not None:
            return False
        waited = False
        path = Path(self.cache_path, self._impl.filename_base + ".lock")
        with suppress(OSError):  # without locks, several compile the same
            self._lock = path.open("wb")
            for _ in range(int(_PATIENCE_S / _LOOK_S)):
                try:
                    system.try_lock(self._lock.fileno())
                    break
                except BlockingIOError:
                    waited = True
                    time.sleep(_LOOK_S)
        return waited

    def unlock(self) -> None:
        """Let others go on."""
        if self._lock is not None:
            with suppress(OSError):
                os.unlink(self._lock.name)
            self._lock.close()
            self._lock = None


class Loop(CPUDispatcher):
    """A loop of this package, compiled as the module says."""

    apart = False
    made = 0  # loops there are, compiled or not

    def __init__(
        self,
        py_func: Callable[..., Any],
        locals: Any = None,
        targetoptions: Any = None,
        pipeline_class: Any = _Compiler,
    ) -> None:
        super().__init__(py_func, locals, targetoptions, pipeline_class)
        Loop.made += 1

    def compile(self, sig: Any) -> Any:
        """The loop for these types of arguments, from the cache or compiled."""
        with global_compiler_lock, self._within():
            arguments = tuple(sigutils.normalize_signature(sig)[0])
            _State.inner = _State.depth > 1 and not self.apart
            _State.apart = self.apart
            known = self.overloads.get(arguments)
            if known is not None and not (_State.inner or known.library._finalized):
                del self.overloads[arguments]  # Python calls what was only linked until now
            try:
                return super().compile(sig)
            finally:
                if isinstance(self._cache, _Cache):
                    self._cache.unlock()

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """What a compiled caller calls: not one function more for every constant argument."""
        return super().get_call_template([types.unliteral(argument) for argument in args], kws)

    @contextmanager
    def _within(self) -> Iterator[None]:
        """numba's own functions that loops call are treated alike."""
        codegen = self.targetctx.codegen()
        _State.depth += 1
        codegen._library_class = Library
        try:
            yield
        finally:
            _State.depth -= 1
            if _State.depth == 0:
                del codegen._library_class

    def add_overload(self, cres: Any) -> None:
        """Let Python call it, unless it is only linked into others."""
        arguments = tuple(cres.signature.args)
        # From the cache, a library knows nothing of it: callers that link it would not load it.
        cres.library._reload_init |= set(cres.reload_init)
        if not cres.library._finalized:
            self.overloads[arguments] = cres
            return
        if self.apart:
            cres.library.load = Load(self.py_func.__module__, self.__name__, arguments)
        super().add_overload(cres)

    def enable_caching(self) -> None:
        """Keep machine code, and look for it where the package is installed as well."""
        self._cache = _Cache(self.py_func)


def njit(function: Callable[..., Any] | None = None, *, cache: bool = False, **options: Any) -> Any:
    """As numba's."""
    if function is None:
        return partial(njit, cache=cache, **options)
    if numba.config.DISABLE_JIT:
        return function
    loop = Loop(function, targetoptions={"nopython": True, **options})
    if cache:
        loop.enable_caching()
    return loop
