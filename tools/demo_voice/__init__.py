"""Trains a small model that speaks, from nothing: data, codec, model, checkpoints, figures."""
