"""Checks everything in deploy/ without a container engine or a cluster: `make check-deploy`.

Each kind of file has a checker of its own; what no checker knows is checked here: that the image is made of files that
are there, that the server takes the configurations, that releases and time-outs agree. Nothing is built or started.
Where a checker isn't installed, PARTLY stands in place of ok, which is no failure.
Run with the Python of .venv-deploy; the server's own programs are called in .venv.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
TOOLS = Path(sys.executable).parent
SERVER = ROOT / ".venv" / "bin"

CONTAINERFILE = DEPLOY / "Containerfile"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
UNIT = DEPLOY / "systemd" / "reward-server.service"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))

DRAIN_SECONDS = 45
"""What a process manager has to give a stopping server at least, by docs/operations.md."""
EXPOSURE = 20
"""The most that `systemd-analyze security` may say, of 100: little is left to the service."""


class Wrong(Exception):
    """Something is to be mended."""


class Partly(str):
    """What was checked and found fine, and what wasn't checked for want of a program."""


def run(*command: str | Path, environ: Mapping[str, str] | None = None, cwd: Path = ROOT) -> str:
    """Runs a program to its end. Raises Wrong with what it said."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, cwd=cwd, env=environ
    )
    if done.returncode:
        raise Wrong(f"{Path(command[0]).name}: exit code {done.returncode}\n{done.stdout}{done.stderr}".strip())
    return done.stdout + done.stderr


def require(fine: bool, otherwise: str) -> None:
    """Raises Wrong."""
    if not fine:
        raise Wrong(otherwise)


# --- Container --------------------------------------------------------------------------------------------------------


def containerfile() -> str:
    """The linter, and that the image can be made of what it copies."""
    run(TOOLS / "hadolint", CONTAINERFILE)
    text = CONTAINERFILE.read_text("utf-8")
    last = text.rpartition("\nFROM ")[2]
    require(re.search(r"^USER 10001:10001$", last, re.MULTILINE) is not None, "the image must not run as root")
    copied = [
        source.rstrip("/")
        for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    for source in copied:
        require((ROOT / source).exists(), f"{source} is copied into the image and isn't there")
        let_in = any(line.startswith("!") and Path(source).is_relative_to(line[1:]) for line in ignored)
        require(let_in, f"{source} is copied into the image and kept out by .dockerignore")
    names = _wheel_of(copied)
    for package in ("reward_server", "reward_adapters", "reward_sandbox", "rewardservice"):
        require(any(name.startswith(f"{package}/") for name in names), f"the image's wheel lacks {package}")
    _locks_agree()
    return "hadolint; the wheel builds from what is copied; both lock files pin the same versions"


def _wheel_of(sources: Sequence[str]) -> list[str]:
    """The files of the wheel that builds from these alone, as it does in the image."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for source in sources:
            target = place / source
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, target)
        run(SERVER / "python", "-m", "hatchling", "build", "-t", "wheel", cwd=place)
        (wheel,) = (place / "dist").glob("*.whl")
        return zipfile.ZipFile(wheel).namelist()


def _locks_agree() -> None:
    pins = [
        dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^ ;]+)", (ROOT / name).read_text("utf-8"), re.MULTILINE))
        for name in ("requirements.lock", "requirements-server.lock")
    ]
    other = {name: version for name, version in pins[1].items() if pins[0].get(name) != version}
    require(not other, f"requirements-server.lock has what requirements.lock hasn't: {other}; run make lock")


# --- Compose ----------------------------------------------------------------------------------------------------------


def compose() -> str:
    """The schema; that nothing has more rights than it needs; that the server takes the configuration."""
    run(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)
    run(TOOLS / "yamllint", "--strict", "-c", DEPLOY / "yamllint.yaml", COMPOSE.parent)
    services = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]
    for name, service in services.items():
        _bound_files(name, service)
        for port in service.get("ports", ()):
            require(port.startswith("127.0.0.1:"), f"{name} publishes {port} to everybody")
        if service["image"].startswith("reward-service"):
            _same_release(service["image"])
            require(service.get("read_only") and service["cap_drop"] == ["ALL"], f"{name} may write or do too much")
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "reward.toml"
        command = services["configuration"]["entrypoint"][-1].partition(" >")[0].split()
        config.write_text(run(SERVER / command[0], *command[1:]), "utf-8")
        keys = _keys(Path(folder))
        for name in ("server-1", "server-2", "migrate"):
            said = {key: _interpolated(str(value), keys) for key, value in services[name]["environment"].items()}
            _check_config(config, said)
    require(int(services["server-1"]["stop_grace_period"].rstrip("s")) >= DRAIN_SECONDS, "compose doesn't let it drain")
    return "schema, yamllint, rights, and the server takes the configuration"


def _bound_files(name: str, service: Mapping[str, Any]) -> None:
    for volume in service.get("volumes", ()):
        source = volume.partition(":")[0]
        if source.startswith("."):
            require((COMPOSE.parent / source).exists(), f"{name} mounts {source}, which isn't there")


def _interpolated(text: str, values: Mapping[str, str]) -> str:
    """`${NAME:?…}` and `${NAME:-default}` as Compose reads them."""
    return re.sub(
        r"\$\{(\w+):([-?])([^}]*)\}", lambda m: values.get(m[1]) or (m[3] if m[2] == "-" else f"<{m[1]}>"), text
    )


def _keys(folder: Path) -> dict[str, str]:
    run(SERVER / "reward-server", "new-master-key", folder / "master.key")
    hashed = re.search(r"sha256:[0-9a-f]{64}", run(SERVER / "reward-server", "new-key"))
    require(hashed is not None, "new-key prints no hash")
    return {
        "REWARD_MASTER_KEY": (folder / "master.key").read_text("utf-8").strip(),
        "REWARD_CLIENT_HASH": hashed[0] if hashed else "",
    }


def _check_config(config: Path, environ: Mapping[str, str]) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("REWARD_")}
    said = run(SERVER / "reward-server", "check-config", "--config", config, environ={**clean, **environ})
    require("configuration OK" in said, said)


def _same_release(image: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    require(image == f"reward-service:{project}", f"{image} isn't the release {project}")


# --- Kubernetes -------------------------------------------------------------------------------------------------------


def kubernetes() -> str:
    """The schemas; that references meet; that streams have time to end; that the server takes the configuration."""
    run(TOOLS / "kubernetes-validate", "--strict", "--quiet", *MANIFESTS)
    run(TOOLS / "yamllint", "--strict", "-c", DEPLOY / "yamllint.yaml", MANIFESTS[0].parent)
    found = [each for file in MANIFESTS for each in yaml.safe_load_all(file.read_text("utf-8"))]
    by_kind = {(each["kind"], each["metadata"]["name"]): each for each in found}
    deployment = by_kind["Deployment", "reward-server"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    for kind in ("Service", "PodDisruptionBudget"):
        for (each, name), manifest in by_kind.items():
            if each == kind:
                chosen = manifest["spec"]["selector"]
                require(chosen.get("matchLabels", chosen) == labels, f"{kind} {name} chooses other pods")
    require(deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}, "an update leaves a gap")
    pod = deployment["template"]["spec"]
    first = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    require(pod["terminationGracePeriodSeconds"] >= first + DRAIN_SECONDS, "pods are killed before they have drained")
    for name, spec in (
        ("Deployment", pod),
        ("Job", by_kind["Job", "reward-server-migrate"]["spec"]["template"]["spec"]),
    ):
        _pod(name, spec, by_kind)
    _kubernetes_config(by_kind)
    return "kubernetes-validate, yamllint, references, rights, and the server takes the configuration"


def _pod(name: str, spec: Mapping[str, Any], by_kind: Mapping[tuple[str, str], Any]) -> None:
    require(spec["securityContext"]["runAsNonRoot"] is True, f"{name} may run as root")
    for volume in spec["volumes"]:
        if config_map := volume.get("configMap"):
            require(("ConfigMap", config_map["name"]) in by_kind, f"{name} mounts a ConfigMap that isn't there")
    for container in spec["containers"]:
        _same_release(container["image"])
        rights = container["securityContext"]
        require(rights["readOnlyRootFilesystem"] and not rights["allowPrivilegeEscalation"], f"{name} may do too much")
        require(rights["capabilities"] == {"drop": ["ALL"]}, f"{name} has capabilities")
        ports = {port["name"] for port in container.get("ports", ())}
        probes = [container[key]["httpGet"]["port"] for key in container if key.endswith("Probe")]
        require(set(probes) <= ports, f"{name} is probed where it doesn't listen")
        mounts = [Path(mount["mountPath"]) for mount in container["volumeMounts"]]
        inside = [a for a in mounts for b in mounts if a != b and a.is_relative_to(b)]
        require(not inside, f"{name}: {inside} can't be made inside of another volume, which is read-only")
        for source in container["envFrom"]:
            require(("Secret", source["secretRef"]["name"]) in by_kind, f"{name} reads a Secret that isn't there")


def _kubernetes_config(by_kind: Mapping[tuple[str, str], Any]) -> None:
    text = by_kind["ConfigMap", "reward-server"]["data"]["reward.toml"]
    secrets = by_kind["Secret", "reward-server"]["stringData"]
    with tempfile.TemporaryDirectory() as folder:
        keys = _keys(Path(folder))
        # A certificate is the cluster's to give.
        text = re.sub(r"^tls_.*$", "", text, flags=re.MULTILINE).replace("[grpc]", "[grpc]\nbehind_tls_proxy = true")
        text = re.sub(r"sha256:replace-this[a-z-]*", keys["REWARD_CLIENT_HASH"], text)
        config = Path(folder) / "reward.toml"
        config.write_text(text, "utf-8")
        _check_config(config, {**secrets, "REWARD_SECRETS__MASTER_KEY": keys["REWARD_MASTER_KEY"]})


# --- systemd ----------------------------------------------------------------------------------------------------------


def systemd() -> str:
    """systemd's own word where it is installed, and what can be said without it."""
    text = UNIT.read_text("utf-8")
    settings = dict(re.findall(r"^([A-Za-z]+)=(.*)$", text, re.MULTILINE))
    require(int(settings["TimeoutStopSec"]) >= DRAIN_SECONDS, "systemd kills it before it has drained")
    require(settings["RestartPreventExitStatus"] == "2", "a wrong configuration would be restarted for ever")
    program, command, *_ = settings["ExecStart"].split()
    require(command in run(SERVER / Path(program).name, "--help"), f"reward-server has no command {command}")
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return Partly(
            "not checked by systemd-analyze: not installed (apt-get install systemd); "
            "time-outs and commands were looked at here"
        )
    with tempfile.TemporaryDirectory() as folder:
        # It looks whether the program is there, which it is on the machine that the unit is for.
        unit = Path(folder) / UNIT.name
        unit.write_text(text.replace(program, "/bin/true"), "utf-8")
        said = run(analyze, "verify", "--man=no", unit)
        require(not said.strip(), said)
        run(analyze, "security", "--offline=true", f"--threshold={EXPOSURE}", unit)
    return f"systemd-analyze verify, security at most {EXPOSURE / 10:.1f} of 10"


# --- Alerts -----------------------------------------------------------------------------------------------------------


def alerts() -> str:
    """What is beside the alerts."""
    last = (run(DEPLOY / "prometheus" / "check").strip().splitlines() or ["checked"])[-1]
    return Partly(last) if last.startswith("not checked by ") else last


CHECKS: tuple[Callable[[], str], ...] = (containerfile, compose, kubernetes, systemd, alerts)


def outcomes() -> Iterator[bool]:
    """Whether each is fine, and says so."""
    with ThreadPoolExecutor() as pool:
        for check, future in [(check, pool.submit(check)) for check in CHECKS]:
            try:
                found = future.result()
                print(f"{check.__name__:<14} {'PARTLY' if isinstance(found, Partly) else 'ok'}: {found}")
                yield True
            except Wrong as error:
                print(f"{check.__name__:<14} WRONG: {error}")
                yield False
            except (KeyError, OSError, ValueError) as error:
                print(f"{check.__name__:<14} WRONG: {type(error).__name__} {json.dumps(str(error))}")
                yield False


if __name__ == "__main__":
    sys.exit(0 if all(list(outcomes())) else 1)
