"""The swap benchmark: the cost of stopping one model and starting another."""
