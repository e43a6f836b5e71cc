"""Fine-tune a language model over several sites, from Python: a study is loaded or made, changed, run and verified.

    import secfed

    study = secfed.load_study(path)                          # a signed document, checked as a whole
    stricter = study.changed(privacy={"epsilon": 3})         # checked again, with the noise that this takes
    secfed.write_study(stricter, path.with_name("stricter.toml"))
    plan = secfed.prepare(path.with_name("stricter.toml"), out)
    result = secfed.execute(plan, screen)                    # `screen` is any object that has show(event)
    secfed.verify_folder(out)                                # offline: what holds, and the first thing that does not

`make_workspace` makes such a study of records in memory. A run in one process is a simulation, and its report says so;
between machines the command line does the same (docs/deploy.md).

Names are loaded when they are first used: `import secfed` takes no torch, and the command line answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secfed.engines.embedded.run import Plan, Result, execute, prepare
    from secfed.engines.embedded.workspace import make_workspace
    from secfed.errors import UserError
    from secfed.rounds.events import Event, Note, RoundClosed
    from secfed.study.changes import write_study
    from secfed.study.manifest import Study, load_study
    from secfed.verify.folder import Verdict, verify_folder

__version__ = "0.2.0.dev0"

__all__ = [
    "Event",
    "Note",
    "Plan",
    "Result",
    "RoundClosed",
    "Study",
    "UserError",
    "Verdict",
    "execute",
    "load_study",
    "make_workspace",
    "prepare",
    "verify_folder",
    "write_study",
]

_HOMES = {
    "Event": "rounds.events",
    "Note": "rounds.events",
    "Plan": "engines.embedded.run",
    "Result": "engines.embedded.run",
    "RoundClosed": "rounds.events",
    "Study": "study.manifest",
    "UserError": "errors",
    "Verdict": "verify.folder",
    "execute": "engines.embedded.run",
    "load_study": "study.manifest",
    "make_workspace": "engines.embedded.workspace",
    "prepare": "engines.embedded.run",
    "verify_folder": "verify.folder",
    "write_study": "study.changes",
}
"""Where each name is; the imports above say the same to whoever only reads."""


def __getattr__(name: str) -> object:
    """A public name, at its first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module("secfed.models.libraries").settle_libraries()  # before torch comes, if it does
    found: object = getattr(import_module(f"secfed.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
