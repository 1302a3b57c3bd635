"""What is measured, and how a measurement is written down: workloads, shapes, records, plots."""
