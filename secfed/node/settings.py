"""`node.toml`: a node's name and the data files that it may train on. Programs write it, people read it.

A data file belongs to a population of patients, whose budget pays for training on it; files of the same patients share
one budget. The patient column is fixed here and not by a study, because it decides who is protected.
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
    """One registered file of patient records."""

    name: Name
    """The owner's name for the file. It never leaves the node."""
    file: str = Field(min_length=1, max_length=4096)
    """Absolute path of a JSON lines, CSV or Parquet file."""
    population: str
    """The population whose budget pays; it has a `[[budget]]` in the policy."""
    patient_column: str = Field(min_length=1, max_length=500)
    """The field that identifies the patient."""
    encoding: Encoding = "utf-8"
    """The encoding of a text file."""

    @model_validator(mode="after")
    def _is_one(self) -> Dataset:
        if not Path(self.file).is_absolute() or not self.file.isprintable():
            raise ValueError("a data file needs an absolute path of printable characters")
        if not is_label(self.population) or not self.patient_column.isprintable():
            raise ValueError(
                "the names of populations and columns must be printable text without leading or trailing spaces"
            )
        return self


class NodeFile(Section):
    """The whole content of `node.toml`."""

    name: Name
    data: tuple[Dataset, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> NodeFile:
        if len({each.name for each in self.data}) != len(self.data):
            raise ValueError("two data files have the same name")
        return self

    def dataset(self, name: str | None) -> Dataset:
        """The data file of this name; without a name, the only data file.

        Raises:
            UserError: no data file has this name, or no name is given and there is not exactly one.
        """
        names = ", ".join(each.name for each in self.data)
        if not self.data:
            raise UserError("this node has no data yet", "Register a file with `secfed node data add FILE`")
        if name is None and len(self.data) > 1:
            raise UserError(
                f"this node has several data files: {names}", "Choose the one for this study with --data NAME"
            )
        for each in self.data:
            if name in (None, each.name):
                return each
        raise UserError(f"this node has no data file named {name}", f"Give one of these with --data: {names}")

    def text(self) -> str:
        """The file's text."""
        tables = [f"name = {toml_text(self.name)}\n"]
        for each in self.data:
            lines = [f"{key} = {toml_text(value)}" for key, value in each.model_dump(exclude_defaults=True).items()]
            tables.append("\n".join(["\n[[data]]", *lines]) + "\n")
        return _HEAD + "".join(tables)


def read_node_file(path: Path) -> NodeFile:
    """Read `node.toml`. Raises UserError if it is missing or invalid."""
    return read_table_file(NodeFile, path, "Restore the file, or set the node up with `secfed node init`")


def write_node_file(path: Path, node: NodeFile) -> None:
    """Write `node.toml`, whole or not at all. Raises OSError."""
    write_whole(path, node.text().encode())
