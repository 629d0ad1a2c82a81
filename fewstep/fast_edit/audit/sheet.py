"""The contact sheet of an audit: all pictures that were judged, not a choice of them."""

from PIL import Image
from torch import Tensor

from fewstep.fast_edit.audit.report import AuditReport
from fewstep.files.contact_sheet import Sample, contact_sheet
from fewstep.files.pictures import to_picture


def audit_sheet(report: AuditReport, sources: Tensor, edits: Tensor, columns: int = 8) -> Image.Image:
    """Each source above its edit, below them by what the picture fails, or "passed"; both [N, 3, H, W] in [-1, 1]."""
    samples = [
        Sample(", ".join(mark.replace("_", " ") for mark in marks) or "passed", _pair(source, edit))
        for marks, source, edit in zip(report.marks, sources, edits, strict=True)
    ]
    return contact_sheet(samples, columns)


def _pair(source: Tensor, edit: Tensor) -> dict[str, Image.Image]:
    return {"source": to_picture(source), "edit": to_picture(edit)}
