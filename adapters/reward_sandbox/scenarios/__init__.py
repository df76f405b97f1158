"""What each supplier sells in the sandbox: one file per supplier, one product per scenario."""
