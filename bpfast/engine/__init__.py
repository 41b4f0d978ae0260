"""Programs that engines run, and the interface of engines."""
