"""Makes `fhir_sample/`: five made-up patients of clinosim (MIT), with what the import reads of them.

    python -m tests.secfed.models.data.make_fhir_sample

clinosim simulates a hospital offline, from a seed. Its whole export has megabytes; the sample has the patients with the
fewest resources who have a Composition, a DocumentReference, a DiagnosticReport and a Condition of an encounter.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

FOLDER = Path(__file__).parent / "fhir_sample"
SEED = ["-p", "60", "-s", "7", "--start", "2025-11-30", "--end", "2026-11-30"]
COMMAND = ["clinosim", "simulate", *SEED, "--format", "fhir-r4", "-o"]
TYPES = ("Patient", "Condition", "Composition", "DocumentReference", "DiagnosticReport")
PATIENTS = 5


def main() -> None:
    """Write the sample."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*COMMAND, folder], check=True, stdout=subprocess.DEVNULL)
        lines = {name: (Path(folder) / "fhir_r4" / f"{name}.ndjson").read_text().splitlines() for name in TYPES}
    sizes: Counter[str] = Counter()
    types = defaultdict[str, set[str]](set)
    for name in TYPES:
        for line in lines[name]:
            sizes[_patient(line)] += len(line)
            types[_patient(line)].add(name)
    whole = [patient for patient, size in sorted(sizes.items(), key=lambda each: each[1]) if len(types[patient]) == 5]
    FOLDER.mkdir(exist_ok=True)
    for name in TYPES:
        kept = [line for line in lines[name] if _patient(line) in whole[:PATIENTS]]
        (FOLDER / f"{name}.ndjson").write_text("".join(f"{line}\n" for line in kept))


def _patient(line: str) -> str:
    resource = json.loads(line)
    if resource["resourceType"] == "Patient":
        return str(resource["id"])
    return str(resource["subject"]["reference"].removeprefix("Patient/"))


if __name__ == "__main__":
    main()
