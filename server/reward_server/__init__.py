"""The server: engine, stores, stream hub, RPCs and callbacks."""
