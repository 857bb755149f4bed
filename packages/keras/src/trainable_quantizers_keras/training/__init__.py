"""Tools for training: schedules, distillation, reconstruction, regularizers and telemetry."""
