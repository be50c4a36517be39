"""Models that services serve which this router did not start: their health, and their requests."""
