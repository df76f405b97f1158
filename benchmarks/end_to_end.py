"""Orders per second from CreateOrder to the pushed card, and the server's memory.

    .venv/bin/python benchmarks/end_to_end.py [--orders 3000] [--callers 64] [--product kaquan91_card/type-1]

Server, sandbox and load are three processes on one machine: the figures say what this machine does with all of them
running, not what the server alone could do. Everything is as shipped: keys, validation, sealing, fsync, metrics, logs
(to a file). `--in-flight` is the account's limit of requests at the supplier.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc.aio

from rewardservice.v1 import reward_service_pb2, reward_service_pb2_grpc

KEY = (("authorization", "Bearer dev-key"),)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def memory_kib(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise LookupError(pid)


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def configure(folder: Path, grpc_port: int, sandbox: str, in_flight: int) -> Path:
    subprocess.run([sys.executable, "-m", "reward_server", "new-master-key", str(folder / "key")], check=True)
    products = subprocess.run(
        [sys.executable, "-m", "reward_sandbox", "products", "--sandbox-url", sandbox],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    products = products.replace("adapter = ", f"max_in_flight = {in_flight}\nadapter = ")
    config = folder / "reward.toml"
    config.write_text(
        f'[grpc]\nbind = "127.0.0.1:{grpc_port}"\n[http]\nbind = "127.0.0.1:{free_port()}"\n'
        f'[store]\nurl = "sqlite:///{folder}/reward.db"\n[secrets]\nmaster_key_file = "{folder}/key"\n{products}'
    )
    return config


async def run(orders: int, callers: int, product: str, in_flight: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grpc_port, sandbox_port = free_port(), free_port()
        sandbox_url = f"http://127.0.0.1:{sandbox_port}"
        config = configure(folder, grpc_port, sandbox_url, in_flight)
        log = (folder / "log").open("wb")
        sandbox = subprocess.Popen(
            [sys.executable, "-m", "reward_sandbox", "serve", "--port", str(sandbox_port)], stdout=log, stderr=log
        )
        server = subprocess.Popen(
            [sys.executable, "-m", "reward_server", "serve", "--config", str(config)],
            stdout=log, stderr=log, env={**os.environ, "REWARD_LOGGING__FORMAT": "json"},
        )  # fmt: skip
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
                await asyncio.wait_for(channel.channel_ready(), 20)
                return await measure(channel, server.pid, orders, callers, product)
        finally:
            for process in (server, sandbox):
                process.send_signal(signal.SIGTERM)
            for process in (server, sandbox):
                process.wait(60)


async def measure(channel: grpc.aio.Channel, pid: int, orders: int, callers: int, product: str) -> dict[str, object]:
    stub = reward_service_pb2_grpc.RewardServiceStub(channel)
    idle = memory_kib(pid)
    stream: Any = stub.StreamOrderUpdates(
        reward_service_pb2.StreamOrderUpdatesRequest(start=reward_service_pb2.STREAM_START_NOW), metadata=KEY
    )
    await stream.read()
    delivered: dict[str, float] = {}
    sent: dict[str, float] = {}
    answered: list[float] = []

    async def follow() -> None:
        while len(delivered) < orders:
            message = await stream.read()
            if message.update.order.cards:
                delivered[message.update.order.client_order_id] = time.perf_counter()

    numbers = iter(range(orders))

    async def call() -> None:
        for n in numbers:
            client_order_id = f"bench-{n}"
            sent[client_order_id] = begun = time.perf_counter()
            await stub.CreateOrder(
                reward_service_pb2.CreateOrderRequest(client_order_id=client_order_id, product_id=product, quantity=1),
                metadata=KEY,
            )
            answered.append(time.perf_counter() - begun)

    cpu = cpu_seconds(pid)
    started = time.perf_counter()
    following = asyncio.create_task(follow())
    await asyncio.gather(*(call() for _ in range(callers)))
    created = time.perf_counter() - started
    await asyncio.wait_for(following, 120)
    done = time.perf_counter() - started
    through = sorted(delivered[name] - sent[name] for name in sent)
    answered.sort()
    return {
        "product": product,
        "orders": orders,
        "callers": callers,
        "created_per_second": round(orders / created),
        "delivered_per_second": round(orders / done),
        "server_cpu_ms_per_order": round(1000 * (cpu_seconds(pid) - cpu) / orders, 2),
        "create_ms_p50": round(1000 * answered[len(answered) // 2], 1),
        "create_ms_p99": round(1000 * answered[int(len(answered) * 0.99)], 1),
        "create_to_card_ms_p50": round(1000 * through[len(through) // 2], 1),
        "create_to_card_ms_p99": round(1000 * through[int(len(through) * 0.99)], 1),
        "memory_idle_mib": round(idle / 1024, 1),
        "memory_after_mib": round(memory_kib(pid) / 1024, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=3000)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--product", default="kaquan91_card/type-1")
    args = parser.parse_args()
    result = asyncio.run(run(args.orders, args.callers, args.product, args.in_flight))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
