"""The scheduler and models of its peers on the same traces, with simulated time and devices."""
