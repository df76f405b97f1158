"""The domain: orders, purchases and the one table of moves. Pure: no clock, no I/O, no logging, no protobuf."""
