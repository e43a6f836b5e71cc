"""`node.toml`: what a node is called, and which data files it may train on. Programs write it, people read it.

A data file belongs to a population of patients, and is paid for from that population's budget; several files of the
same patients are paid from one budget. Which column names the patient is fixed here, and not by a study: it decides
who is protected.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from dp.entries import is_label
from secfed.errors import UserError
from secfed.files.toml import toml_text
from secfed.files.whole import write_whole
from secfed.models.data import Encoding
from secfed.study.manifest import Name
from secfed.study.problems import read_table_file
from secfed.study.sections import Section

_HEAD = """\
# What this node is called, and the data that it may train on. `secfed node data add` adds to it.
# What may be done with the data is said in policy.toml.

"""


class Dataset(Section):
    """One registered file of patients' records."""

    name: Name
    """What its owner calls it here. It never leaves the node."""
    file: str = Field(min_length=1, max_length=4096)
    """Absolute path of JSON lines, CSV or Parquet."""
    population: str
    """Whose budget pays; a `[[budget]]` of the policy."""
    patient_column: str = Field(min_length=1, max_length=500)
    """The field that says whose record it is."""
    encoding: Encoding = "utf-8"
    """Of a file of text."""

    @model_validator(mode="after")
    def _is_one(self) -> Dataset:
        if not Path(self.file).is_absolute() or not self.file.isprintable():
            raise ValueError("a data file is given by its absolute path, in printable characters")
        if not is_label(self.population) or not self.patient_column.isprintable():
            raise ValueError("a population's name, and a column's, are printable text without spaces around it")
        return self


class NodeFile(Section):
    """The whole file."""

    name: Name
    data: tuple[Dataset, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> NodeFile:
        if len({each.name for each in self.data}) != len(self.data):
            raise ValueError("two data files have the same name")
        return self

    def dataset(self, name: str | None) -> Dataset:
        """The data file of this name; the only one when no name is given.

        Raises:
            UserError: there is none, or no telling which.
        """
        names = ", ".join(each.name for each in self.data)
        if not self.data:
            raise UserError("this node has no data yet", "Register a file with `secfed node data add FILE`")
        if name is None and len(self.data) > 1:
            raise UserError(
                f"this node has several data files: {names}", "Say which one this study trains on, with --data NAME"
            )
        for each in self.data:
            if name in (None, each.name):
                return each
        raise UserError(f"this node has no data called {name}", f"Give one of these with --data: {names}")

    def text(self) -> str:
        """The file's text."""
        tables = [f"name = {toml_text(self.name)}\n"]
        for each in self.data:
            lines = [f"{key} = {toml_text(value)}" for key, value in each.model_dump(exclude_defaults=True).items()]
            tables.append("\n".join(["\n[[data]]", *lines]) + "\n")
        return _HEAD + "".join(tables)


def read_node_file(path: Path) -> NodeFile:
    """Read `node.toml`. Raises UserError when it is missing, or not one."""
    return read_table_file(NodeFile, path, "Restore it, or set the node up with `secfed node init`")


def write_node_file(path: Path, node: NodeFile) -> None:
    """Write `node.toml`, whole or not at all. Raises OSError."""
    write_whole(path, node.text().encode())
