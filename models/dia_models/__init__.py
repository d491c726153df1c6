"""PyTorch definitions of Dia and its codec, and readers of their published checkpoints."""

from dia_models.checkpoint import (
    Checkpoint,
    CheckpointError,
    CheckpointNotFoundError,
    DacCheckpoint,
    DiaCheckpoint,
    Weight,
    open_dac,
    open_dia,
)
from dia_models.config import ConfigError, DacConfig, DecoderConfig, DiaConfig, EncoderConfig

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CheckpointNotFoundError",
    "ConfigError",
    "DacCheckpoint",
    "DacConfig",
    "DecoderConfig",
    "DiaCheckpoint",
    "DiaConfig",
    "EncoderConfig",
    "Weight",
    "open_dac",
    "open_dia",
]
