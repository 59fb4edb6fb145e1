"""The connector process: HTTP interfaces, storage, peers, identity, sources, sandbox, drivers, CLI and wiring."""
