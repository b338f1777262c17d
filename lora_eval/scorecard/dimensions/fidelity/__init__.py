"""Feature fidelity."""
