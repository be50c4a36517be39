"""Devices with memory: one module per kind reads what its driver says, `machine` reads all."""
