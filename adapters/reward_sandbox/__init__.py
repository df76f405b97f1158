"""The suppliers' side of the wire: one HTTP server that plays five Chinese reward suppliers.

It speaks each supplier's documented protocol, checks every signature and token, keeps its own books of what was
bought and charged, and sends the callbacks. It shares no code with the adapters on purpose: a misreading made in both
places would be invisible.

    async with Sandbox(SandboxSettings(port=0)) as sandbox:
        print(sandbox.url, sandbox.books("kasushou"))
"""

try:
    from reward_sandbox.app import Sandbox
    from reward_sandbox.catalogue import catalogue
    from reward_sandbox.mint import CANARY
    from reward_sandbox.settings import SandboxSettings
    from reward_sandbox.shops import shops
except ModuleNotFoundError as _missing:
    # Told where something of it is used; `reward-sandbox`, which has to import this first, says it without a traceback.
    _WHY = f'{_missing.msg}; install it with: pip install "reward-service[server]"'

    def __getattr__(name: str) -> object:
        if name in __all__:
            raise ModuleNotFoundError(_WHY)
        raise AttributeError(name)


__all__ = ["CANARY", "Sandbox", "SandboxSettings", "catalogue", "shops"]
