"""Tools for training: files of parameters, distillation, reconstruction, regularizers and telemetry."""
