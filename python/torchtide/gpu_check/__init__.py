"""The GPU check: `scripts/gpu-check` runs it; `check` says what is in it."""
