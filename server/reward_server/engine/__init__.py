"""The engine: takes orders, sends purchases, asks what became of them, and applies what suppliers say."""
