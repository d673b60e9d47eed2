"""Side-by-side comparisons: each a function run(config) that returns a record, and a command that writes it."""
