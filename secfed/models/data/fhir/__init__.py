"""A FHIR R4 bulk export as records: the patient reference is the unit, texts are taken out, labels come from codes."""

from secfed.models.data.fhir.mapping import FhirMapping
from secfed.models.data.fhir.notes import Tally, rows

__all__ = ["FhirMapping", "Tally", "rows"]
