"""The swap benchmark: what it costs to have one model stopped and another started."""
