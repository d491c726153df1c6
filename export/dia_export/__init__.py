"""Exports Dia checkpoints to the ONNX artifacts that dia_ort runs."""

from dia_export.exporter import ExportResult, export

__all__ = ["ExportResult", "export"]
